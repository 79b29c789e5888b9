"""What /? and its topics say in the conversation."""

from __future__ import annotations

HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Go on with another model or a saved conversation
  /save <model>   Save model, settings and conversation as a model
  /clear          Forget the conversation
  /list           List the installed models
  /bye, /exit     Exit
  /?, /help       Help for a command
  /? shortcuts    Help for keyboard shortcuts

Use \"\"\" to begin and to end a message of several lines.
"""
HELP_SET = """\
Available Commands:
  /set parameter ...     Set a parameter (/set parameter lists them)
  /set system <string>   Set system message
  /set history           Keep what is typed
  /set nohistory         Keep nothing more
  /set wordwrap          Break lines between words
  /set nowordwrap        Leave lines as they come
  /set format json       Answer in JSON
  /set noformat          Answer in any form
  /set verbose           Show timings after each answer
  /set quiet             Show no timings
  /set think [level]     Think before the answer: low, medium, high, max
  /set nothink           Don't think
"""
HELP_SHOW = """\
Available Commands:
  /show info         Show details for this model
  /show license      Show model license
  /show modelfile    Show Modelfile for this model
  /show parameters   Show parameters for this model
  /show system       Show system message
  /show template     Show prompt template
"""
HELP_SHORTCUTS = """\
Available keyboard shortcuts:
  Ctrl + a            Move to the beginning of the line (Home)
  Ctrl + e            Move to the end of the line (End)
   Alt + b            Move back (left) one word
   Alt + f            Move forward (right) one word
  Ctrl + k            Delete the sentence after the cursor
  Ctrl + u            Delete the sentence before the cursor
  Ctrl + w            Delete the word before the cursor

   Up, Down           Recall an earlier line
  Ctrl + r            Search the earlier lines
  Ctrl + g            Edit the line in an editor ($OLLAMA_EDITOR, $VISUAL or $EDITOR)
  Ctrl + l            Clear the screen
  Ctrl + c            Stop the model from responding
  Ctrl + d            Exit
"""
HELP_PARAMETERS = """\
Available Parameters:
  /set parameter num_ctx <int>               Context in tokens
  /set parameter num_predict <int>           The most tokens of an answer; -1 is no limit
  /set parameter num_keep <int>              Tokens kept from the start when the context is full
  /set parameter temperature <float>         0 always takes the likeliest token; more is more varied
  /set parameter seed <int>                  The same seed gives the same answer; -1 is random
  /set parameter top_k <int>                 Choose among the k likeliest tokens; 0 is off
  /set parameter top_p <float>               Choose among the likeliest tokens of this much probability
  /set parameter min_p <float>               Leave out tokens below this part of the likeliest one's
  /set parameter typical_p <float>           Choose among tokens about as surprising as expected; 1 is off
  /set parameter repeat_penalty <float>      Penalty for tokens of the recent past; 1 is off
  /set parameter repeat_last_n <int>         How far that past goes back; 0 is off, -1 the context
  /set parameter presence_penalty <float>    Penalty for every token that has occurred
  /set parameter frequency_penalty <float>   Penalty for every time a token has occurred
  /set parameter stop <text> <text> ...      Texts that end the answer; in quotes where they have blanks
"""
HELPS = {"set": HELP_SET, "show": HELP_SHOW, "shortcuts": HELP_SHORTCUTS, "parameter": HELP_PARAMETERS}
