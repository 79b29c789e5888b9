"""The behaviours of Ollama that its own tests show, each in a line, and what this server does otherwise or not at all.

A test that shows one is marked `spec(number)`; `scripts/docs` writes docs/compatibility.md from both, and fails where a
behaviour has neither a test nor a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOUD = "This server never reaches a cloud, so nothing stands for a model there."
OPENAI = "The OpenAI dialect is not there yet."
ANTHROPIC = "The Anthropic dialect is not there yet."
VISION = "Models with vision are not built yet; a request with images is refused with 400."


@dataclass(frozen=True)
class Case:
    """One behaviour. `improved` says what is done otherwise on purpose, `missing` what is not done, and why."""

    number: int
    behaviour: str
    improved: str = ""
    missing: str = ""


SECTIONS: dict[str, tuple[Case, ...]] = {
    "Routes": (
        Case(1, "`GET /api/version` is JSON in UTF-8 with the version and nothing else"),
        Case(2, "`GET /api/tags` of an empty store has an empty array"),
        Case(3, "`GET /v1/models` of an empty store is a list without data", improved="`data` is `[]`, never null."),
        Case(4, "An installed model is listed with its tag, and without the fields of a loaded one"),
        Case(5, "`DELETE /api/delete` takes the old key `name` too, and then the model is gone"),
        Case(6, "Deleting what is not installed is a 404 that says so"),
        Case(7, "`GET /v1/models` lists a model by its short name, owned by its namespace"),
        Case(8, "`POST /api/create` without streaming is one JSON object; a bare name gets the tag `latest`"),
        Case(9, "`POST /api/copy` makes the second name"),
        Case(10, "`POST /api/show` has a line for every parameter, and the parameter count as a number"),
        Case(11, "`GET /v1/models/NAME` answers under the name that was asked for"),
        Case(12, "`GET /api/show` is 405"),
        Case(
            13,
            "An answer that is not streamed is the stream's last event; an error in it has its own status, else 500",
            improved="Events have types here, so there is none without a text and none of an unknown kind.",
        ),
        Case(14, "Names that differ only in case are one model, in one folder"),
        Case(15, "`show` tells the template that builds the prompts: the Go one, else the file's Jinja"),
        Case(16, "GitHub Copilot finds the name it asked for in `general.basename`; other clients see the file's"),
        Case(17, "Vectors are scaled to length one, zeros stay zeros, NaN and infinity are an error"),
        Case(18, "Thoughts in answers before the last question are cut out for qwen3 and deepseek-r1, for no other"),
        Case(19, "The address of a remote model's host is put in order", missing=CLOUD),
    ),
    "Generate": (
        Case(20, "No model is a 404 that names the empty model, also for the body `null`"),
        Case(21, "A model that only embeds does not generate: 400"),
        Case(22, "A suffix needs a template that has a place for it; else 400 with the model's full name"),
        Case(23, "Without a prompt the model is loaded: `done_reason` is `load`"),
        Case(24, "An answer that is not streamed has `context` and all six figures, none of them zero"),
        Case(25, "The model's system prompt counts unless the request has one"),
        Case(26, "The template of a request replaces the model's, and is cut at the answer's place"),
        Case(
            27,
            "Prompt and suffix meet in the template's form for filling in the middle; without suffix only the prompt",
        ),
        Case(28, "`raw` runs the prompt to the byte"),
        Case(
            29,
            "What the runner refuses keeps its status, streamed or not, as long as nothing was sent",
            improved="The engine is part of the server and limits nobody's rate: 400, 500 or 503, never 429.",
        ),
        Case(30, "`top_logprobs` outside 0 to 20 is refused before the model is looked for"),
        Case(31, "Every logprob and every alternative has the bytes of its token"),
        Case(32, "Without a prompt and with `keep_alive` 0 the model is unloaded, and never loaded for it"),
        Case(33, "Images reach the engine in their order", missing=VISION),
        Case(34, "A model that makes images is refused with 400"),
        Case(35, "Without a Go template the file's Jinja builds the prompt, and `context` goes in front"),
        Case(36, "`_debug_render_only` answers with the prompt and runs nothing"),
        Case(
            37,
            "A model whose config names a built-in renderer is rendered by that",
            improved="The Jinja template of the model's file does what a renderer does; without one it is refused.",
        ),
    ),
    "Chat": (
        Case(38, "No model is 400, also for the body `null`"),
        Case(39, "`think` on a model that cannot is 400; `think: false` never is"),
        Case(40, "A model that only embeds does not chat: 400, also without messages"),
        Case(41, "Without messages the model is loaded: `done_reason` is `load`"),
        Case(42, "A Go template over the messages renders role and content of each; the answer has all six figures"),
        Case(43, "The model's system prompt comes first unless the request begins with one; later ones stay in place"),
        Case(44, "A tool call that arrives whole becomes name, arguments and an id"),
        Case(45, "A tool call in pieces leaks no text and is one call"),
        Case(46, "Logprobs are all sent although a tool call's text is held back"),
        Case(
            47,
            "What the runner refuses keeps its status, streamed or not, as long as nothing was sent",
            improved="As for generate.",
        ),
        Case(
            48,
            "A prompt that ends in the thinking tag starts the answer inside thinking, streamed or whole",
        ),
        Case(
            49,
            "`format` with thinking: first free thoughts, then an answer in the format, in one stream",
        ),
        Case(50, "`format` without thinking holds from the first token"),
        Case(51, "Harmony: channels become thinking, content and calls, and no marker leaks"),
        Case(52, "A parser's failure in the middle of a stream is one last error line"),
        Case(53, "A conversation that is too long loses its oldest turns; system messages and the last one stay"),
        Case(54, "What fits is tokenised once"),
        Case(
            55,
            "A model with a Jinja template gets messages and tools through it; OLLAMA_GO_TEMPLATE=1 forces the Go one",
        ),
    ),
    "Create, list, delete, options": (
        Case(56, "A model of one GGUF file is that blob and a config, with digests that repeat; a child reuses layers"),
        Case(57, "An empty digest in `files` or `adapters` is 400"),
        Case(58, "A replaced template's blob goes"),
        Case(59, "Made again from its file without a system prompt, a model has none"),
        Case(60, "Parameters merge by name, the child's win, a list replaces a list"),
        Case(61, "Messages are replaced as a whole"),
        Case(62, "A template that does not parse is 400, with what is wrong"),
        Case(63, "Two licences are two layers"),
        Case(
            64,
            "A known Jinja template brings Ollama's own Go template and stop words along",
            improved="Only the stop words: the file's Jinja template is run as it is. It is known by the marks around "
            "its turns, so later versions of a template count too.",
        ),
        Case(65, "Fields of `info` of a wrong type are 400, each in its words"),
        Case(
            66,
            "A child inherits renderer and parser",
            improved="No architecture gets a renderer by default: the file's Jinja template does what one does.",
        ),
        Case(67, "A model of a remote host becomes a stub", missing=f"{CLOUD} `remote_host` is refused with 403."),
        Case(68, "Files are told apart by suffix and by their first bytes, also very short ones"),
        Case(69, "The list has short names, and `/v1/models` has the same in the same order"),
        Case(70, "Deleting keeps what others use; a layer that is there twice and a cloud stub are no trouble"),
        Case(
            71,
            "`num_ctx`: the request's, else the model's, else OLLAMA_CONTEXT_LENGTH, else by memory",
            improved="Without any of them it is 4096 on any machine: Ollama's tiers are those of graphics memory.",
        ),
        Case(
            72,
            "`draft_num_predict` is 0 without a draft model",
            missing="There are no draft models; drafts come from the text itself. Only the option's type is checked.",
        ),
    ),
    "Cloud, names, registry": (
        Case(
            73,
            "`GET /api/status` says whether and by what the cloud is switched off",
            improved="It is always off, also where neither the variable nor server.json says so.",
        ),
        Case(74, "Cloud models and web tools are 403, each endpoint in its words"),
        Case(75, "Suffixes `:cloud`, `-cloud` and `:local` are recognised, and nothing that only looks like one"),
        Case(76, "Names: their grammar and lengths, their short form, their path there and back"),
        Case(
            77,
            "Pull keeps the manifest's bytes, refuses wrong digests, and gets tokens only from the registry's own host",
        ),
        Case(78, "Parts of a blob are resumed, and tried again when they stall"),
    ),
    "OpenAI and Anthropic": (
        Case(79, "OpenAI chat: messages, options, tools, images, errors", missing=OPENAI),
        Case(80, "OpenAI chat streams: roles, finish reasons, usage", missing=OPENAI),
        Case(81, "OpenAI: reasoning effort and the range of `top_logprobs`", missing=OPENAI),
        Case(82, "OpenAI completions", missing=OPENAI),
        Case(83, "OpenAI embeddings", missing=OPENAI),
        Case(84, "OpenAI list of models and its errors"),
        Case(85, "OpenAI responses", missing=OPENAI),
        Case(86, "Anthropic messages", missing=ANTHROPIC),
        Case(87, "Anthropic streams", missing=ANTHROPIC),
    ),
    "Types, parsers, templates": (
        Case(88, "`keep_alive`: seconds, durations, negative for ever, absent"),
        Case(89, "`think`: booleans, levels, absent; others are named in the error"),
        Case(
            90,
            "Tools: types as text or list, nested properties in their order; an index always, empty arguments as `{}`",
        ),
        Case(
            91,
            "`use_mmap` is a boolean, and `main_gpu` 0 is not the same as none",
            improved="Weights are always mapped and no GPU is chosen by number, so neither loads a model again.",
        ),
        Case(
            92,
            "Tool calls in text: tags, pieces, lists, names that begin alike, arguments in any form",
            improved="Text and a call in one piece of output both arrive; Ollama loses the call.",
        ),
        Case(93, "Thoughts in text: blanks, tags in pieces, no tag, text before the tag"),
        Case(94, "Modelfile: quotes, several lines, comments, encodings, line ends, errors with their line"),
        Case(95, "Old and new templates of a model render alike; tool results are not merged"),
        Case(96, "The command line's tables and flows"),
    ),
    "With a real model": (
        Case(97, "generate: an answer in pieces, figures at the end, and `ps` lists the model meanwhile"),
        Case(98, "chat: the same"),
        Case(99, "A model that was made is listed and shown with everything clients read"),
        Case(100, "logprobs only when asked for: not above zero, sorted, as many as wanted, with the right bytes"),
        Case(101, "`num_predict` 10 gives ten tokens"),
        Case(102, "Thoughts and answer come apart, and no tag leaks"),
        Case(103, "all-minilm: vectors as Ollama's, and the counts of tokens"),
        Case(104, "Embeddings of what is too long: cut, or refused where it may not be"),
        Case(105, "Batches of embeddings with long texts"),
        Case(106, "A message longer than the context is an answer, or a 4xx that says why"),
        Case(107, "Generation goes on past the context; histories are kept apart"),
        Case(108, "Many at a time, several models; a full queue says it is busy"),
        Case(
            109,
            "Tools with a real model",
            improved="Arguments written as JSON are held to the tool's schema from where the model begins a call.",
        ),
        Case(110, "Images and audio", missing=f"{VISION} There is no audio."),
        Case(111, "create from GGUF and safetensors on the command line, quantised; the model answers"),
        Case(112, "Answers in any script; a models folder with any name"),
    ),
}


ELSEWHERE: tuple[tuple[str, str], ...] = (
    (
        "`POST /api/me`, `POST /api/signout`, `DELETE /api/user/keys/KEY`",
        "Not there: 404. They are about accounts at ollama.com, which this server never reaches.",
    ),
    ("`/debug/pprof`", "Not there: 404. `GET /api/stats` tells what the server does."),
    (
        "A model whose weights have gone",
        "500, as Ollama's, but the text names the model, the blob, and what to do instead of a path of this machine.",
    ),
    (
        "`push` that is not streamed, of what is not installed or with a bad name",
        "404 and 400, and the text names the model; Ollama answers 500, for the former with a path.",
    ),
    (
        "More requests for a model than it has slots",
        "OLLAMA_MAX_QUEUE of them wait, and one more is 503; in Ollama any number waits for a model that is loaded. "
        "OLLAMA_NUM_PARALLEL is 4 where nobody sets it, not 1.",
    ),
    ("`ps`, where several names share weights", "The name that was used last; Ollama's, the one that loaded them."),
    (
        "An answer that repeats one chunk over and over",
        "Behind thirty repeats comes a last message that says `stop`, without figures; Ollama's stream just ends.",
    ),
    (
        "A prompt without tokens",
        "400, where a template makes nothing of the request. Ollama hands it to its runner.",
    ),
    ("`create` of a file that was not uploaded", "404, which names the blob; Ollama answers 500 with a path."),
    (
        "A model that cannot be converted",
        "500, and the text says what is supported; Ollama advises to pull the model again.",
    ),
    ("A prompt that is too long", "Ollama's text, and behind it how many tokens it has and how many it may have."),
    (
        "`Content-Type` of a stream that fails before its first line",
        "Always `application/json; charset=utf-8` for chat and generate; Ollama leaves out the charset where its "
        "runner failed.",
    ),
    ("`show`", "A key `bundle` more: what the model was converted to, and what that cost."),
)
"""What Ollama's tests do not ask for, and where this server is not the same: the place and the difference."""


def by_number() -> dict[int, Case]:
    """Every case under its number."""
    return {case.number: case for cases in SECTIONS.values() for case in cases}
