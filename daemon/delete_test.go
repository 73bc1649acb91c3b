package daemon

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"

	"cllm/modelstore"
)

// The blob of a model that answers goes at once, its answers go on to their end.
func TestAModelThatIsDeletedOrReplacedFinishesItsAnswers(t *testing.T) {
	const said = "a long answer"
	for what, request := range map[string][3]string{
		"deleted":  {"DELETE", "/api/delete", `{"model":"own"}`},
		"replaced": {"POST", "/api/create", `{"model":"own","from":"filler","stream":false}`},
	} {
		t.Run(what, func(t *testing.T) {
			g := newGate()
			defer g.open()
			a := serveFake(t, always(said), gated(g))
			a.createFrom(ggml.KV{"general.architecture": "qwen3", "general.name": "Own"}, "own", modelstore.CreateRequest{Template: chatML})
			m, err := a.lookup("own")
			if err != nil {
				t.Fatal(err)
			}
			go g.step()
			_, lines := a.stream(t.Context(), "/api/chat", `{"model":"own","messages":[{"role":"user","content":"Why?"}]}`)
			first, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if r := a.do(request[0], request[1], request[2]); r.status != 200 {
				t.Fatalf("%d %s", r.status, r.body)
			}
			if _, err := os.Stat(m.ModelPath); !os.IsNotExist(err) {
				t.Errorf("the model's file is still there: %v", err)
			}
			if r := a.post("/api/chat", `{"model":"own","messages":[]}`); what == "deleted" && r.status != 404 {
				t.Errorf("a new request: %d %s", r.status, r.body)
			}
			g.open()
			rest, err := io.ReadAll(lines)
			if err != nil {
				t.Fatal(err)
			}
			var answer strings.Builder
			var last api.ChatResponse
			for line := range strings.Lines(first + string(rest)) {
				if err := json.Unmarshal([]byte(line), &last); err != nil {
					t.Fatal(err)
				}
				answer.WriteString(last.Message.Content)
			}
			if answer.String() != said || !last.Done || last.DoneReason != "stop" {
				t.Errorf("the answer is %q and ends with %+v", answer.String(), last)
			}
		})
	}
}
