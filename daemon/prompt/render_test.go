package prompt

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/types/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// styles are those that were read: finding a template's counterpart is slow.
var styles = make(map[string]Style)

// style reads the style of a folder: template.gotmpl, or jinja.txt, whose Go
// counterpart Ollama knows; and config.json, a part of a model's config.
func style(t testing.TB, dir string) Style {
	t.Helper()
	if s, ok := styles[dir]; ok {
		return s
	}
	text := []byte("{{ .Prompt }}")
	if jinja, err := os.ReadFile(filepath.Join(dir, "jinja.txt")); err == nil {
		named, err := template.Named(string(jinja))
		if err != nil {
			t.Fatal(err)
		}
		text = named.Bytes
	}
	if own, err := os.ReadFile(filepath.Join(dir, "template.gotmpl")); err == nil {
		text = own
	}
	parsed, err := Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var config model.ConfigV2
	if raw, err := os.ReadFile(filepath.Join(dir, "config.json")); err == nil {
		if err := json.Unmarshal(raw, &config); err != nil {
			t.Fatal(err)
		}
	}
	styles[dir] = NewStyle(parsed, config, model.ParseName("test"))
	return styles[dir]
}

func TestRenderedPromptsAreTheGoldenOnes(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*/*/in.json")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, in := range inputs {
		dir := filepath.Dir(in)
		name, _ := filepath.Rel("testdata", dir)
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			var req api.ChatRequest
			if err := json.Unmarshal(raw, &req); err != nil {
				t.Fatal(err)
			}
			s := style(t, filepath.Dir(dir))
			talk := Conversation{Messages: s.Forget(req.Messages), Tools: req.Tools, Think: req.Think}
			_, talk.Tools, err = s.NewOutput(talk)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Render(talk)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join(dir, "want.txt"), got.Text)

			var unchanged api.ChatRequest
			if err := json.Unmarshal(raw, &unchanged); err != nil {
				t.Fatal(err)
			}
			if a, b := asJSON(t, req), asJSON(t, unchanged); a != b {
				t.Errorf("the request was changed:\n%s", cmp.Diff(b, a))
			}
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestImagesAreCounted(t *testing.T) {
	images := []api.ImageData{{1}, {2}}
	talk := Conversation{Messages: []api.Message{
		{Role: "user", Content: "a", Images: images},
		{Role: "user", Content: "b", Images: images[:1]},
	}}
	for _, dir := range []string{"testdata/chatml", "testdata/qwen3-vl"} {
		got, err := style(t, dir).Render(talk)
		if err != nil {
			t.Fatal(err)
		}
		if got.Images != 3 || !strings.Contains(got.Text, "[img-2]") {
			t.Errorf("%s: %d images in %q", dir, got.Images, got.Text)
		}
	}
}

func TestATemplateThatPanicsIsAnError(t *testing.T) {
	broken, err := Parse("{{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Style{Template: broken}.Render(Conversation{Messages: []api.Message{{Role: "user", Content: "hi"}}})
	if err == nil || !strings.Contains(err.Error(), "the model's template, renderer or parser failed") {
		t.Errorf("error %v", err)
	}
}

func TestAnUnknownRendererIsAnError(t *testing.T) {
	_, err := Style{Template: template.DefaultTemplate, Renderer: "nobody"}.Render(Conversation{})
	if err == nil {
		t.Error("no error")
	}
}

func TestGptOSSModelsUseTheHarmonyParser(t *testing.T) {
	harmony, err := Parse("<|start|>{{ .Prompt }}<|end|>")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, family, parser string
		template             *template.Template
		want                 string
	}{
		{"family and template", "gptoss", "", harmony, Harmony},
		{"the family's other name", "gpt-oss", "", harmony, Harmony},
		{"another template", "gptoss", "", template.DefaultTemplate, ""},
		{"another family", "llama", "", harmony, ""},
		{"a parser of its own", "gptoss", "qwen3", harmony, "qwen3"},
	} {
		got := NewStyle(c.template, model.ConfigV2{ModelFamily: c.family, Parser: c.parser}, model.Name{})
		if got.Parser != c.want {
			t.Errorf("%s: parser %q, want %q", c.name, got.Parser, c.want)
		}
	}
}

func TestOldThinkingIsForgottenByModelsThatMustNotSeeIt(t *testing.T) {
	messages := []api.Message{
		{Role: "user", Content: "a"},
		{Role: "assistant", Content: "<think>b</think>c"},
		{Role: "user", Content: "d"},
		{Role: "assistant", Content: "<think>e</think>f"},
	}
	for _, c := range []struct {
		family, name string
		want         string
	}{
		{"qwen3", "any", "c"},
		{"qwen2", "deepseek-r1:7b", "c"},
		{"qwen2", "any", "<think>b</think>c"},
	} {
		s := NewStyle(template.DefaultTemplate, model.ConfigV2{ModelFamily: c.family}, model.ParseName(c.name))
		got := s.Forget(messages)
		if got[1].Content != c.want || got[3].Content != "<think>e</think>f" {
			t.Errorf("%s %s: %+v", c.family, c.name, got)
		}
		if messages[1].Content != "<think>b</think>c" {
			t.Fatal("the caller's messages were changed")
		}
	}
}

func FuzzTemplatesNeverPanic(f *testing.F) {
	for _, s := range []string{
		"", "{{ .Prompt }}", "{{ .Response }}", "{{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}",
		"{{ define \"x\" }}{{ end }}", "{{ .System }}{{ with .Messages }}{{ . }}{{ end }}", "{{ template \"x\" }}",
		"{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}", "{{ .ToolCalls }}", "{{ block \"a\" . }}{{ end }}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "range") || strings.Contains(text, "printf") {
			t.Skip("may take for ever, or all the memory")
		}
		parsed, err := Parse(text)
		if err != nil {
			return
		}
		s := Style{Template: parsed}
		talk := Conversation{
			Messages: []api.Message{{Role: "system", Content: "a"}, {Role: "user", Content: "b"}, {Role: "assistant", Content: "c"}},
			Tools:    []api.Tool{{}},
			Think:    &api.ThinkValue{Value: true},
		}
		// Errors are allowed.
		_, _ = s.Render(talk)
		_, _ = Execute(parsed, template.Values{Prompt: "a", Suffix: "b"}, nil)
		if o, _, err := s.NewOutput(talk); err == nil {
			_, _ = o.Add("<think>a</think>{\"name\":\"\",\"arguments\":{}}")
			_, _ = o.End()
		}
	})
}
