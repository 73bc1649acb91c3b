package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// SchemaToGrammar knows some schemas.
func (f *fakeLoader) SchemaToGrammar(schema []byte) (string, error) {
	f.mu.Lock()
	f.converted++
	f.mu.Unlock()
	if g, ok := schemas[string(schema)]; ok {
		return g, nil
	}
	return "", errors.New("an unknown schema")
}

// schemas are grammars by the text of their schemas.
var schemas = map[string]string{
	`{"type":"boolean"}`:                     `root ::= "true" | "false"`,
	`{"type":"array"}`:                       `root ::= "[" ([0-9] ("," [0-9])*)? "]"`,
	`{"title":"what no matcher begins"}`:     `root ::= root "a" | "b"`,
	`{"title":"what no parser of ours can"}`: `root ::= <1>`,
}

// object decodes a text that must be one JSON object.
func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%v: %q", err, text)
	}
	return v
}

func TestTheGrammarOfJSONIsJSON(t *testing.T) {
	g, err := jsonGrammar()
	if err != nil {
		t.Fatal(err)
	}
	takes := func(text string) bool {
		m, err := g.Match(nil)
		if err != nil {
			t.Fatal(err)
		}
		ok, err := m.TakeText(text)
		return ok && err == nil && m.Complete()
	}
	for _, text := range []string{
		`{}`, `{ }`, `{"a":1}`, "{\n  \"a\": [1, -2.5e+10, 0, true, false, null],\n  \"b\" : {\"c\" : \"\"} }",
		`{"\"\\\/\b\f\n\r\t\u00e9":"ä€😀"}`, `{"a":[[[]],[{}]]}`,
	} {
		object(t, text)
		if !takes(text) {
			t.Errorf("%s is refused", text)
		}
	}
	for _, text := range []string{``, `[]`, `1`, `"a"`, ` {}`, `{} `, `{,}`, `{"a":1,}`, `{"a":01}`, `{"a":.5}`, `{"a":+1}`, `{'a':1}`, `{"a" 1}`, `{"a":"` + "\n" + `"}`, `{"a":"\x"}`, `{"a":nil}`, `{a:1}`, `{"a":1e400}`} {
		if takes(text) {
			t.Errorf("%s is taken", text)
		}
	}
}

func TestAFormatHoldsTheAnswerToIt(t *testing.T) {
	const json, free = `{"colour": "red", "sizes": [1, 2]}`, ` and that was it`
	a := serveFake(t, always(json+free))
	for format, want := range map[string]string{
		`"json"`:             regexp.QuoteMeta(json),
		`null`:               regexp.QuoteMeta(json + free),
		`""`:                 regexp.QuoteMeta(json + free),
		`{"type":"boolean"}`: `true|false`,
	} {
		for path, body := range map[string]string{
			"/api/chat":     `{"model":"plain","messages":[{"role":"user","content":"?"}],"options":{"temperature":0},"format":`,
			"/api/generate": `{"model":"plain","prompt":"?","options":{"temperature":0},"format":`,
		} {
			got := gather(t, a.post(path, body+format+"}").body)
			if !regexp.MustCompile("^("+want+")$").MatchString(got.Content) || !strings.Contains(got.Last, `"done_reason":"stop"`) {
				t.Errorf("%s %s: %q; %s", path, format, got.Content, got.Last)
			}
		}
	}
}

func TestWhateverTheModelWantsToSayItIsJSON(t *testing.T) {
	a := serveFake(t, func(prompt string) string {
		return []string{`Sure! Here is`, `[1, 2]`, `{"a": "unended`, "{\n\n\n\n", `{"a":1}`, "", "\xff{}", `{"é":`}[len(prompt)%8]
	})
	var clients sync.WaitGroup
	for seed := range 24 {
		clients.Go(func() {
			body := fmt.Sprintf(`{"model":"plain","messages":[{"role":"user","content":%q}],"format":"json","stream":%v,"options":{"seed":%d,"temperature":%d,"num_ctx":4096}}`,
				strings.Repeat("?", seed), seed%2 == 0, seed, seed%3)
			r := a.post("/api/chat", body)
			if seed%2 == 0 {
				object(t, gather(t, r.body).Content)
				return
			}
			var whole struct{ Message struct{ Content string } }
			if err := json.Unmarshal([]byte(r.body), &whole); err != nil {
				t.Error(err, r.body)
			}
			object(t, whole.Message.Content)
		})
	}
	clients.Wait()
}

func TestABadFormatIsRefusedBeforeTheModelIsLoaded(t *testing.T) {
	a := serveFake(t, always("x"))
	for format, text := range map[string]string{
		`"yaml"`:                                 `invalid format: "\"yaml\""; expected "json" or a valid JSON Schema object`,
		`7`:                                      `invalid format: "7"; expected "json" or a valid JSON Schema object`,
		`[{}]`:                                   `invalid format: "[{}]"; expected "json" or a valid JSON Schema object`,
		`{}`:                                     `invalid JSON schema in format`,
		`{"title":"what no matcher begins"}`:     `invalid JSON schema in format`,
		`{"title":"what no parser of ours can"}`: `invalid JSON schema in format`,
	} {
		for path, body := range map[string]string{
			"/api/chat":     `{"model":"plain","messages":[{"role":"user","content":"?"}],"format":`,
			"/api/generate": `{"model":"plain","prompt":"?","format":`,
		} {
			r := a.post(path, body+format+"}")
			if got := errorText(t, r); r.status != 500 || got != text {
				t.Errorf("%s %s: %d %q", path, format, r.status, got)
			}
		}
	}
	if n := len(a.loader.loads()); n != 0 {
		t.Errorf("%d models were loaded", n)
	}
}

func TestASchemaIsConvertedOnce(t *testing.T) {
	a := serveFake(t, always("[1]"))
	for range 5 {
		if r := a.post("/api/generate", `{"model":"plain","prompt":"?","format":{"type":"array"}}`); r.status != 200 {
			t.Fatal(r.body)
		}
	}
	a.loader.mu.Lock()
	defer a.loader.mu.Unlock()
	if a.loader.converted != 1 {
		t.Errorf("it was converted %d times", a.loader.converted)
	}
}

func TestKeptGrammarsAreBounded(t *testing.T) {
	f := formats{convert: func(schema []byte) (string, error) {
		return `root ::= "` + strings.Repeat("a", 100_000) + `"`, nil
	}}
	for i := range 200 {
		if _, err := f.grammar(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if f.size > maxFormats || len(f.known) > 30 {
			t.Fatalf("%d grammars of %d bytes are kept", len(f.known), f.size)
		}
	}
	if len(f.known) == 0 {
		t.Error("none is kept")
	}
}

func TestNumPredictCutsAFormat(t *testing.T) {
	a := serveFake(t, always(`{"colour": "red"}`))
	got := gather(t, a.post("/api/chat", `{"model":"plain","messages":[{"role":"user","content":"?"}],"format":"json","options":{"num_predict":7,"temperature":0}}`).body)
	if got.Content != `{"colou` || !strings.Contains(got.Last, `"done_reason":"length"`) || !strings.Contains(got.Last, `"eval_count":7`) {
		t.Errorf("%+v", got)
	}
}

func TestAClientThatLeavesWhileItsAnswerIsFormattedFreesItsSlot(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always(strings.Repeat("never ", 1000)), gated(g))
	ctx, cancel := context.WithCancel(t.Context())
	go g.step()
	_, lines := a.stream(ctx, "/api/chat", `{"model":"plain","messages":[{"role":"user","content":"?"}],"format":"json"}`)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	g.open()
	a.idle()
}
