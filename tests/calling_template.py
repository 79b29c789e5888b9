"""A TEMPLATE with tools for models in ChatML, which begins a call wherever a request has tools and asks something."""

CALLING = """{{- if .Tools }}<|im_start|>system
You may call these functions:{{ range .Tools }}
{{ . }}{{ end }}
Write each call as <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>
{{ end }}
{{- $last := "" }}
{{- range .Messages }}{{ $last = .Role }}<|im_start|>{{ .Role }}
{{ .Content }}
{{- range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ if and .Tools (eq $last "user") }}<tool_call>{{ end }}"""
