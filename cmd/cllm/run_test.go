package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const plainShow = `{"details":{},"model_info":{},"capabilities":["completion","tools"]}`

var hello = streams(
	`{"model":"m","response":"Hel","done":false}`,
	`{"model":"m","response":"lo.","done":false}`,
	`{"model":"m","response":"","done":true,"done_reason":"stop","total_duration":2000000000,"load_duration":1,"prompt_eval_count":4,"prompt_eval_duration":1000000000,"eval_count":3,"eval_duration":1000000000}`,
)

func TestRunAnswersOnePrompt(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": hello})
	wantResult(t, cllm("", "run", "m", "say", "hello"), result{Out: "Hello.\n\n"})
	d.wantJSON("POST /api/generate", `{"model":"m","prompt":"say hello","suffix":"","system":"","template":"","options":{}}`)
}

func TestRunPutsPipedInputBeforeThePrompt(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": hello})
	wantResult(t, cllm("a text\n", "run", "m", "sum", "it", "up"), result{Out: "Hello.\n\n"})
	wantResult(t, cllm("only input", "run", "m"), result{Out: "Hello.\n\n"})
	var prompts []string
	for _, body := range d.asked("POST /api/generate") {
		_, rest, _ := strings.Cut(body, `"prompt":`)
		prompt, _, _ := strings.Cut(rest, `,"suffix"`)
		prompts = append(prompts, prompt)
	}
	if diff := cmp.Diff([]string{`"a text\n sum it up"`, `"only input"`}, prompts); diff != "" {
		t.Errorf("prompts (-want +got):\n%s", diff)
	}
}

func TestRunWithoutPromptOrTerminalLoadsTheModel(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show":     says(plainShow),
		"POST /api/generate": says(`{"model":"m","response":"","done":true,"done_reason":"load"}`),
	})
	wantResult(t, cllm("", "run", "m", "--keepalive", "1h"), result{})
	d.wantJSON("POST /api/generate", `{"model":"m","prompt":"","suffix":"","system":"","template":"","keep_alive":"1h0m0s","options":{}}`)
}

func TestRunPassesItsFlagsOn(t *testing.T) {
	const base = `{"model":"m","prompt":"p","suffix":"","system":"","template":"","options":{}`
	tests := map[string]struct {
		args []string
		want string
	}{
		"format json":      {[]string{"--format", "json"}, `,"format":"json"}`},
		"format schema":    {[]string{"--format", `{"type":"object"}`}, `,"format":{"type":"object"}}`},
		"think":            {[]string{"--think"}, `,"think":true}`},
		"think=false":      {[]string{"--think=false"}, `,"think":false}`},
		"think=high":       {[]string{"--think=high"}, `,"think":"high"}`},
		"keepalive":        {[]string{"--keepalive=-1s"}, `,"keep_alive":-1}`},
		"presentation":     {[]string{"--hidethinking", "--nowordwrap", "--insecure"}, `}`},
		"flags stand last": {[]string{"--verbose=false"}, `}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": hello})
			wantResult(t, cllm("", append([]string{"run", "m", "p"}, test.args...)...), result{Out: "Hello.\n\n"})
			d.wantJSON("POST /api/generate", base+test.want)
		})
	}
}

func TestRunRefusesWrongFlagValuesBeforeAsking(t *testing.T) {
	d := newDaemon(t, nil)
	for flag, want := range map[string]string{
		"--think=max":    `invalid value for --think: "max" (must be true, false, high, medium, or low)`,
		"--keepalive=10": `time: missing unit in duration "10"`,
		"--format={":     `invalid value for --format: "{" (must be json or a JSON schema)`,
		"--dimensions=x": `invalid argument "x" for "--dimensions" flag: strconv.ParseInt: parsing "x": invalid syntax`,
	} {
		wantResult(t, cllm("", "run", "m", "p", flag), result{Err: "Error: " + want + "\n", Code: 1})
	}
	if asked := d.routesAsked(); len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
}

const thinkingShow = `{"details":{},"model_info":{},"capabilities":["completion","thinking"]}`

var thoughtful = streams(
	`{"model":"m","response":"","thinking":"Let me","done":false}`,
	`{"model":"m","response":"","thinking":" see.","done":false}`,
	`{"model":"m","response":"42","done":false}`,
	`{"model":"m","response":"","done":true}`,
)

func TestRunLetsAThinkingModelThinkAndShowsIt(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(thinkingShow), "POST /api/generate": thoughtful})
	wantResult(t, cllm("", "run", "m", "p"), result{Out: "Thinking...\nLet me see.\n...done thinking.\n\n42\n\n"})
	d.wantJSON("POST /api/generate", `{"model":"m","prompt":"p","suffix":"","system":"","template":"","options":{},"think":true}`)
}

func TestRunHidesThinkingWhenAskedTo(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(thinkingShow), "POST /api/generate": thoughtful})
	wantResult(t, cllm("", "run", "m", "p", "--hidethinking"), result{Out: "42\n\n"})
}

func TestRunReportsToolCallsItCannotMake(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": streams(
		`{"response":"","tool_calls":[{"function":{"name":"weather","arguments":{"city":"Paris"}}}],"done":false}`,
		`{"response":"","done":true}`,
	)})
	wantResult(t, cllm("", "run", "m", "p"), result{
		Out: "  Model called a non-existent function 'weather()' with arguments: {\"city\":\"Paris\"}\n\n",
	})
}

func TestRunVerboseAddsTimings(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": hello})
	wantResult(t, cllmProcess(t, "", "run", "--verbose", "m", "p"), result{Out: "Hello.\n\n", Err: `total duration:       2s
load duration:        1ns
prompt eval count:    4 token(s)
prompt eval duration: 1s
prompt eval rate:     4.00 tokens/s
eval count:           3 token(s)
eval duration:        1s
eval rate:            3.00 tokens/s
`})
}

func TestRunPullsAMissingModelFirst(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show":     inTurn(fails(404, `{"error":"model 'm' not found"}`), says(plainShow)),
		"POST /api/pull":     streams(`{"status":"pulling manifest"}`, `{"status":"success"}`),
		"POST /api/generate": hello,
	})
	wantResult(t, cllm("", "run", "--insecure", "m", "p"), result{Out: "Hello.\n\n", Err: "pulling manifest\nsuccess\n"})
	d.wantJSON("POST /api/pull", `{"model":"m","insecure":true,"username":"","password":"","name":""}`)
	want := []string{"POST /api/show", "POST /api/pull", "POST /api/show", "POST /api/generate"}
	if diff := cmp.Diff(want, d.routesAsked()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestRunOfAModelThatCannotBePulledFails(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show": fails(404, `{"error":"model 'm' not found"}`),
		"POST /api/pull": streams(`{"status":"pulling manifest"}`, `{"error":"pull model manifest: file does not exist"}`),
	})
	wantResult(t, cllm("", "run", "m", "p"), result{
		Err: "pulling manifest\nError: pull model manifest: file does not exist\n", Code: 1,
	})
}

func TestRunOfAMissingModelOnAServerThatCannotPullNamesTheModel(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show": fails(404, `{"error":"model 'm' not found"}`),
		"POST /api/pull": fails(404, "404 page not found"),
	})
	wantResult(t, cllm("", "run", "m", "p"), result{Err: "Error: model 'm' not found\n", Code: 1})
	wantResult(t, cllm("", "pull", "m"), result{
		Err:  "Error: the server does not offer this (404 page not found); update it, or point OLLAMA_HOST at one that does\n",
		Code: 1,
	})
}

func TestRunFailsWithTheDaemonsText(t *testing.T) {
	const busy = "server busy, please try again.  maximum pending requests exceeded"
	tests := map[string]struct {
		answer http.HandlerFunc
		want   result
	}{
		"before the answer": {fails(503, `{"error":"`+busy+`"}`), result{Err: "Error: 503 Service Unavailable: " + busy + "\n", Code: 1}},
		"within it": {
			streams(`{"response":"Hel","done":false}`, `{"error":"an error was encountered while running the model: full"}`),
			result{Out: "Hel", Err: "Error: an error was encountered while running the model: full\n", Code: 1},
		},
		"cut off": {
			streams(`{"response":"Hel","done":false}`),
			result{Out: "Hel", Err: "Error: the answer is incomplete: the connection to the server was lost\n", Code: 1},
		},
		"not JSON": {streams(`<html>`), result{Err: "Error: <html>\n", Code: 1}},
		"sign in needed": {
			fails(401, `{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=a"}`),
			result{Err: "Error: unauthorized: sign in to ollama.com at https://ollama.com/connect?name=a and try again\n", Code: 1},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow), "POST /api/generate": test.answer})
			wantResult(t, cllm("", "run", "m", "p"), test.want)
		})
	}
}

const embeddingShow = `{"details":{},"model_info":{},"capabilities":["embedding"]}`

func TestRunOfAnEmbeddingModelPrintsTheEmbedding(t *testing.T) {
	tests := map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"plain":      {"", []string{"a", "text"}, `{"model":"e","input":"a text","options":null}`},
		"piped":      {"piped", nil, `{"model":"e","input":"piped","options":null}`},
		"truncate":   {"", []string{"x", "--truncate=false"}, `{"model":"e","input":"x","truncate":false,"options":null}`},
		"dimensions": {"", []string{"x", "--dimensions", "2", "--keepalive", "1m"}, `{"model":"e","input":"x","dimensions":2,"keep_alive":"1m0s","options":null}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, map[string]http.HandlerFunc{
				"POST /api/show":  says(embeddingShow),
				"POST /api/embed": says(`{"model":"e","embeddings":[[0.1,-0.25,1e-7]]}`),
			})
			wantResult(t, cllm(test.stdin, append([]string{"run", "e"}, test.args...)...), result{Out: "[0.1,-0.25,1e-7]\n"})
			d.wantJSON("POST /api/embed", test.want)
		})
	}
}

func TestRunOfAnEmbeddingModelNeedsText(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(embeddingShow)})
	wantResult(t, cllm("", "run", "e"), result{
		Err: "Error: embedding models require input text. Usage: cllm run e \"your text here\"\n", Code: 1,
	})
}

func TestRunSendsTheImagesNamedInThePrompt(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show":     says(`{"details":{},"model_info":{},"capabilities":["completion","vision"]}`),
		"POST /api/generate": hello,
	})
	path := filepath.Join(t.TempDir(), "a picture.png")
	if err := os.WriteFile(path, pngHeader, 0o600); err != nil {
		t.Fatal(err)
	}
	wantResult(t, cllm("", "run", "m", "what is on '"+path+"'"), result{
		Out: "Hello.\n\n", Err: "Added image '" + path + "'\n",
	})
	d.wantJSON("POST /api/generate", `{"model":"m","prompt":"what is on","suffix":"","system":"","template":"","images":["iVBORw0KGgo="],"options":{}}`)
}
