// Renders templates with Go's own text/template: what our evaluator is held against.
//
// Reads cases as lines of JSON and answers each with a line: {"output": ...} or {"error": ...}.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"
)

// renderCase is a template with a dot of plain JSON, or with a conversation among its fields.
type renderCase struct {
	Template string          `json:"template"`
	Data     json.RawMessage `json:"data"`
	Messages []*message      `json:"messages"`
	Tools    tools           `json:"tools"`
	Now      string          `json:"now"`
}

type answer struct {
	Output string `json:"output"`
	Error  string `json:"error,omitempty"`
}

type message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Thinking   string     `json:"thinking,omitempty"`
	Images     [][]byte   `json:"images,omitempty"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolName   string     `json:"tool_name,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

type toolCall struct {
	ID       string       `json:"id,omitempty"`
	Function calledByName `json:"function"`
}

type calledByName struct {
	Index     int       `json:"index"`
	Name      string    `json:"name"`
	Arguments arguments `json:"arguments"`
}

type arguments map[string]any

func (a arguments) String() string { return asJSON(a) }

type tools []tool

func (t tools) String() string { return asJSON(t) }

type tool struct {
	Type     string   `json:"type"`
	Items    any      `json:"items,omitempty"`
	Function function `json:"function"`
}

func (t tool) String() string { return asJSON(t) }

type function struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Parameters  parameters `json:"parameters"`
}

func (f function) String() string { return asJSON(f) }

type parameters struct {
	Type       string     `json:"type"`
	Defs       any        `json:"$defs,omitempty"`
	Items      any        `json:"items,omitempty"`
	Required   []string   `json:"required,omitempty"`
	Properties properties `json:"properties"`
}

func (p parameters) String() string { return asJSON(p) }

type properties map[string]property

func (p properties) String() string { return asJSON(p) }

type property struct {
	AnyOf       []property `json:"anyOf,omitempty"`
	Type        types      `json:"type,omitempty"`
	Items       any        `json:"items,omitempty"`
	Description string     `json:"description,omitempty"`
	Enum        []any      `json:"enum,omitempty"`
	Properties  properties `json:"properties,omitempty"`
	Required    []string   `json:"required,omitempty"`
}

// types is one name or several.
type types []string

func (t types) String() string {
	if len(t) == 1 {
		return t[0]
	}
	return fmt.Sprintf("%v", []string(t))
}

func (t types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t *types) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = types{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

var typeScript = map[string]string{
	"string": "string", "number": "number", "integer": "number", "boolean": "boolean",
	"null": "null", "array": "any[]", "object": "Record<string, any>",
}

func toTypeScriptType(p property) string {
	var names []string
	for _, alternative := range p.AnyOf {
		names = append(names, toTypeScriptType(alternative))
	}
	if len(names) == 0 {
		for _, name := range p.Type {
			shown, known := typeScript[name]
			if !known {
				shown = "any"
			}
			names = append(names, shown)
		}
	}
	if len(names) == 0 {
		return "any"
	}
	return strings.Join(names, " | ")
}

func asJSON(value any) string {
	encoded, _ := json.Marshal(value)
	return string(encoded)
}

// plain turns numbers of JSON into int or float64, by their spelling.
func plain(value any) any {
	switch value := value.(type) {
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return int(whole)
		}
		decimal, _ := value.Float64()
		return decimal
	case []any:
		for i := range value {
			value[i] = plain(value[i])
		}
		return value[:len(value):len(value)]
	case map[string]any:
		for key := range value {
			value[key] = plain(value[key])
		}
	}
	return value
}

func dot(c *renderCase) (any, error) {
	var data any
	if len(c.Data) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(c.Data))
		decoder.UseNumber()
		if err := decoder.Decode(&data); err != nil {
			return nil, err
		}
		data = plain(data)
	}
	if c.Messages != nil {
		fields, _ := data.(map[string]any)
		if fields == nil {
			fields = map[string]any{}
		}
		fields["Messages"], fields["Tools"] = c.Messages, c.Tools
		data = fields
	}
	return data, nil
}

func render(c *renderCase) (result answer) {
	now, err := time.Parse("2006-01-02", c.Now)
	if err != nil {
		now = time.Unix(0, 0)
	}
	functions := template.FuncMap{
		"json":             asJSON,
		"currentDate":      func(...any) string { return now.Format("2006-01-02") },
		"yesterdayDate":    func(...any) string { return now.AddDate(0, 0, -1).Format("2006-01-02") },
		"toTypeScriptType": toTypeScriptType,
	}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(c.Template)
	if err != nil {
		return answer{Error: err.Error()}
	}
	data, err := dot(c)
	if err != nil {
		return answer{Error: "data: " + err.Error()}
	}
	var output strings.Builder
	if err := parsed.Execute(&output, data); err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Output: output.String()}
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			return
		}
		var c renderCase
		if err := json.Unmarshal(line, &c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := output.Encode(render(&c)); err != nil {
			return
		}
	}
}
