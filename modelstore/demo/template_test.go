package demo

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"

	"cllm/modelstore"
	"cllm/modelstore/demo/demotest"
)

func render(t *testing.T, m *modelstore.Model, messages []api.Message, tools []api.Tool) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.Template.Execute(&b, template.Values{Messages: messages, Tools: tools}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// parsed reads JSON as a client sends it.
func parsed[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

const (
	weatherTool = `{"type":"function","function":{"name":"get_weather","description":"Get the weather","parameters":{"type":"object","properties":{"city":{"type":"string","description":"The city"}},"required":["city"]}}}`
	addTool     = `{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"b":{"type":"number"},"a":{"type":"number"}}}}}`

	weatherLine = `{"name":"get_weather","description":"Get the weather","parameters":{"type":"object","required":["city"],"properties":{"city":{"type":"string","description":"The city"}}}}`
	addLine     = `{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}}}}`
)

func TestTheTemplateWritesChatML(t *testing.T) {
	m := installed(t)
	for what, c := range map[string]struct{ messages, tools, want string }{
		"a question": {
			`[{"role":"user","content":"Hi"}]`, `null`,
			"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
		},
		"a conversation": {
			`[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello."},{"role":"user","content":"a\nb"}]`, `null`,
			"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n",
		},
		"tools": {
			`[{"role":"user","content":"Weather?"}]`, "[" + weatherTool + "," + addTool + "]",
			"<|im_start|>system\nTools:\n" + weatherLine + "\n" + addLine + "<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n",
		},
		"tools and a system text": {
			`[{"role":"system","content":"Be kind."},{"role":"user","content":"Weather?"}]`, "[" + weatherTool + "]",
			"<|im_start|>system\nBe kind.\n\nTools:\n" + weatherLine + "<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n",
		},
		"a call and its result": {
			`[{"role":"user","content":"Weather?"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"get_weather","arguments":{"city":"Rome"}}}]},{"role":"tool","tool_name":"get_weather","content":"sunny"}]`, `null`,
			"<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Rome\"}}</tool_call><|im_end|>\n<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n",
		},
	} {
		got := render(t, m, parsed[[]api.Message](t, c.messages), parsed[[]api.Tool](t, c.tools))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// conversations has the corpus make conversations, and prints each as messages and as
// the text that the model learns from.
const conversations = `
import corpus, json
texts, rng = corpus.Corpus(), corpus.new_rng(7)
made = [texts.conversation(rng) for _ in range(500)] + [texts.with_tools(rng) for _ in range(200)]
print(json.dumps([{"messages": c, "text": corpus.text_of(c)} for c in made]))
`

func TestTheTemplateWritesWhatTheModelHasLearnt(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("what the model learns from is made by Python: install python3")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", conversations)
	cmd.Dir = demotest.Folder(t)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	m, tools, calls := installed(t), 0, 0
	for _, c := range parsed[[]struct {
		Messages [][2]string
		Text     string
	}](t, string(out)) {
		messages, offered := asked(t, c.Messages)
		tools += len(offered)
		for _, m := range messages {
			calls += len(m.ToolCalls)
		}
		if diff := cmp.Diff(c.Text+"<|im_start|>assistant\n", render(t, m, messages, offered)); diff != "" {
			t.Fatalf("(-learnt +rendered):\n%s", diff)
		}
	}
	if tools == 0 || calls == 0 {
		t.Errorf("%d tools and %d calls: not all is compared", tools, calls)
	}
}

// asked turns a conversation of the corpus into what a client sends.
func asked(t *testing.T, conversation [][2]string) (messages []api.Message, tools []api.Tool) {
	t.Helper()
	for _, m := range conversation {
		role, text := m[0], m[1]
		if system, list, found := strings.Cut(text, "Tools:\n"); found && role == "system" {
			for line := range strings.SplitSeq(list, "\n") {
				tools = append(tools, parsed[api.Tool](t, `{"type":"function","function":`+line+`}`))
			}
			if text = strings.TrimSuffix(system, "\n\n"); text == "" {
				continue
			}
		}
		message := api.Message{Role: role, Content: text}
		if call, found := strings.CutPrefix(text, "<tool_call>"); found {
			call = strings.TrimSuffix(call, "</tool_call>")
			message.Content = ""
			message.ToolCalls = []api.ToolCall{parsed[api.ToolCall](t, `{"function":`+call+`}`)}
		}
		messages = append(messages, message)
	}
	return messages, tools
}
