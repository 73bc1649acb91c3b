package main

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/ollama/ollama/api"
)

// refused is an address where nothing listens.
var refused = &url.URL{Scheme: "http", Host: "127.0.0.1:1"}

func TestSetChangesWhatIsSent(t *testing.T) {
	const question = `{"model":"m","messages":[{"role":"user","content":"q"}]`
	tests := map[string]struct {
		lines []any
		out   string
		want  string
	}{
		"format":    {[]any{"/set format json"}, "Set format to 'json' mode.\n", question + `,"format":"json","options":{}}`},
		"noformat":  {[]any{"/set format json", "/set noformat"}, "Set format to 'json' mode.\nDisabled format.\n", question + `,"options":{}}`},
		"think":     {[]any{"/set think"}, "Set 'think' mode.\n", question + `,"think":true,"options":{}}`},
		"level":     {[]any{"/set think high"}, "Set 'think' mode to 'high'.\n", question + `,"think":"high","options":{}}`},
		"nothink":   {[]any{"/set nothink"}, "Set 'nothink' mode.\n", question + `,"think":false,"options":{}}`},
		"int":       {[]any{"/set parameter top_k 20"}, "Set parameter 'top_k' to '20'\n", question + `,"options":{"top_k":20}}`},
		"float":     {[]any{"/set parameter temperature 0.5"}, "Set parameter 'temperature' to '0.5'\n", question + `,"options":{"temperature":0.5}}`},
		"stop":      {[]any{"/set parameter stop a b"}, "Set parameter 'stop' to 'a, b'\n", question + `,"options":{"stop":["a","b"]}}`},
		"not a one": {[]any{"/set parameter top_k x"}, "Couldn't set parameter: \"invalid int value [x]\"\n", question + `,"options":{}}`},
		"unknown":   {[]any{"/set parameter nope 1"}, "Couldn't set parameter: \"unknown parameter 'nope'\"\n", question + `,"options":{}}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo, "POST /api/show": says(thinkingShow)})
			_, out, errs := talk(t, &script{entries: append(test.lines, "q")})
			wantEqual(t, "output", out, test.out+"answer\n\n\n")
			wantEqual(t, "errors", errs, "")
			d.wantJSON("POST /api/chat", test.want)
		})
	}
}

func TestSetThinkWarnsAboutAModelThatCannot(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(plainShow)})
	s, out, errs := talk(t, &script{entries: []any{"/set think"}})
	wantEqual(t, "output", out, "Set 'think' mode.\n\n")
	wantEqual(t, "errors", errs, "warning: model \"m\" does not support thinking output\n")
	if s.opts.think == nil || !s.thinkChosen {
		t.Error("the choice is not kept")
	}
}

func TestSetChangesTheSession(t *testing.T) {
	newDaemon(t, nil)
	lines := &script{entries: []any{
		"/set nowordwrap", "/set wordwrap", "/set nowordwrap", "/set verbose", "/set quiet", "/set verbose",
		"/set nohistory", "/set history", "/set format xml", "/set nope",
	}}
	s, out, _ := talk(t, lines)
	wantEqual(t, "output", out, "Set 'nowordwrap' mode.\nSet 'wordwrap' mode.\nSet 'nowordwrap' mode.\n"+
		"Set 'verbose' mode.\nSet 'quiet' mode.\nSet 'verbose' mode.\n"+
		"Invalid or missing format. For 'json' mode use '/set format json'\n"+
		"Unknown command '/set nope'. Type /? for help\n\n")
	if s.opts.wrap || !s.opts.verbose {
		t.Errorf("options %+v", s.opts)
	}
	wantEqual(t, "history", lines.history, []bool{false, true})
}

func TestSystemMessageIsSentAndReplaced(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
	lines := &script{entries: []any{
		"/set system be kind", "/set system be terse", "q1", `/set system """two`, `lines"""`, "q2", "/clear", "q3",
	}}
	_, out, _ := talk(t, lines)
	wantEqual(t, "output", out, "Set system message.\nSet system message.\nanswer\n\nSet system message.\nanswer\n\nCleared session context\nanswer\n\n\n")
	wantEqual(t, "later lines", lines.later, []string{`lines"""`})
	wantEqual(t, "chats", d.chats(), [][]string{
		{"system: be terse", "user: q1"},
		{"system: be terse", "user: q1", "assistant: answer", "system: two\nlines", "user: q2"},
		{"system: two\nlines", "user: q3"},
	})
}

func TestClearForgetsTheConversation(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo})
	talk(t, &script{entries: []any{"q1", "/clear", "q2"}})
	wantEqual(t, "chats", d.chats(), [][]string{{"user: q1"}, {"user: q2"}})
}

func TestLoadGoesOnWithAnotherModel(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/show":     says(thinkingShow),
		"POST /api/generate": says(`{"done":true,"done_reason":"load"}`),
		"POST /api/chat":     echo,
	})
	s, out, _ := talk(t, &script{entries: []any{"q1", "/load other", "q2"}})
	wantEqual(t, "output", out, "answer\n\nLoading model 'other'\nanswer\n\n\n")
	wantEqual(t, "last chat", d.asked("POST /api/chat")[1],
		`{"model":"other","messages":[{"role":"user","content":"q2"}],"options":{},"think":true}`)
	if s.opts.model != "other" {
		t.Errorf("model %q", s.opts.model)
	}
}

func TestLoadThatFailsChangesNothing(t *testing.T) {
	tests := map[string]struct {
		line           string
		show, generate http.HandlerFunc
		want           string
	}{
		"usage":     {"/load", nil, nil, "Usage:\n  /load <modelname>\n"},
		"unknown":   {"/load x", fails(404, `{"error":"model 'x' not found"}`), nil, "Loading model 'x'\nCouldn't find model 'x'\n"},
		"no memory": {"/load x", says(plainShow), fails(500, `{"error":"model requires more system memory"}`), "Loading model 'x'\nerror: 500 Internal Server Error: model requires more system memory\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/chat": echo, "POST /api/show": test.show, "POST /api/generate": test.generate})
			_, out, _ := talk(t, &script{entries: []any{"q1", test.line, "q2"}})
			wantEqual(t, "output", out, "answer\n\n"+test.want+"answer\n\n\n")
			wantEqual(t, "last chat", d.chats()[1], []string{"user: q1", "assistant: answer", "user: q2"})
		})
	}
}

func TestSaveMakesAModelOfTheWholeConversation(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{
		"POST /api/chat": echo, "POST /api/create": streams(`{"status":"writing manifest"}`, `{"status":"success"}`),
	})
	_, out, errs := talk(t, &script{entries: []any{"/set parameter seed 7", "/set system terse", "q", "/save mine"}}, func(s *session) {
		s.inherited = []api.Message{{Role: "user", Content: "before"}}
	})
	wantEqual(t, "output", out, "Set parameter 'seed' to '7'\nSet system message.\nanswer\n\nCreated new model 'mine'\n\n")
	wantEqual(t, "errors", errs, "")
	d.wantJSON("POST /api/create", `{"model":"mine","name":"","from":"m","system":"terse","parameters":{"seed":7},"messages":[
		{"role":"user","content":"before"},{"role":"system","content":"terse"},
		{"role":"user","content":"q"},{"role":"assistant","content":"answer"}]}`)
}

func TestSaveThatFailsSaysWhy(t *testing.T) {
	tests := map[string]struct {
		line   string
		create http.HandlerFunc
		want   string
	}{
		"usage":    {"/save a b", nil, "Usage:\n  /save <modelname>\n"},
		"bad name": {"/save -", fails(400, `{"error":"invalid model name"}`), "error: The model name '-' is invalid\n"},
		"full":     {"/save x", streams(`{"error":"no space left on device"}`), "error: no space left on device\n"},
		"cut off":  {"/save x", streams(`{"status":"writing manifest"}`), "error: the connection to the server was lost before it reported success; try again\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, map[string]http.HandlerFunc{"POST /api/create": test.create})
			_, out, _ := talk(t, &script{entries: []any{test.line}})
			wantEqual(t, "output", out, test.want+"\n")
		})
	}
}

func TestShowPrintsPartsOfTheModel(t *testing.T) {
	const bare = `{"details":{"family":"f","parameter_size":"1B","quantization_level":"F16"}}`
	tests := map[string]struct {
		lines     []any
		show      string
		out, errs string
	}{
		"info":             {[]any{"/show info"}, bare, "", "  Model\n    architecture    f      \n    parameters      1B     \n    quantization    F16    \n\n"},
		"license":          {[]any{"/show license"}, fullShow, "MIT License\n\nCopyright someone\nmore\n", ""},
		"no license":       {[]any{"/show license"}, bare, "No license was specified for this model.\n", ""},
		"modelfile":        {[]any{"/show modelfile"}, fullShow, "FROM /blob\n", ""},
		"system":           {[]any{"/show system"}, fullShow, "You are terse.\n\n", ""},
		"the user's own":   {[]any{"/set system mine", "/show system"}, fullShow, "Set system message.\nmine\n\n", ""},
		"no system":        {[]any{"/show system"}, bare, "No system message was specified for this model.\n", ""},
		"template":         {[]any{"/show template"}, fullShow, "{{ .Prompt }}\n", ""},
		"no template":      {[]any{"/show template"}, bare, "No prompt template was specified for this model.\n", ""},
		"unknown":          {[]any{"/show nope"}, bare, "Unknown command '/show nope'. Type /? for help\n", ""},
		"without a word":   {[]any{"/show"}, bare, "", helpShow},
		"parameters":       {[]any{"/show parameters"}, fullShow, "Model defined parameters:\n  stop                           \"<|im_end|>\"\n  temperature                    0.6\n\n", ""},
		"no parameters":    {[]any{"/show parameters"}, bare, "Model defined parameters:\n  No additional parameters were specified for this model.\n\n", ""},
		"parameters added": {[]any{"/set parameter seed 7", "/set parameter min_p 0.5", "/show parameters"}, bare, "Set parameter 'seed' to '7'\nSet parameter 'min_p' to '0.5'\nModel defined parameters:\n  No additional parameters were specified for this model.\n\nUser defined parameters:\n  min_p                          0.5\n  seed                           7\n\n", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, map[string]http.HandlerFunc{"POST /api/show": says(test.show)})
			_, out, errs := talk(t, &script{entries: test.lines})
			wantEqual(t, "output", out, test.out+"\n")
			wantEqual(t, "errors", errs, test.errs)
		})
	}
}

func TestShowWithoutDaemonNamesTheRemedy(t *testing.T) {
	newDaemon(t, nil)
	_, out, _ := talk(t, &script{entries: []any{"/show info"}}, func(s *session) {
		s.client = api.NewClient(refused, http.DefaultClient)
	})
	wantEqual(t, "output", out, "error: could not connect to ollama server, run 'cllm serve' to start it\n\n")
}

func TestListInASessionPrintsTheModels(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"GET /api/tags": tags()})
	_, out, _ := talk(t, &script{entries: []any{"/list qwen"}})
	wantEqual(t, "output", out, ""+
		"NAME          ID              SIZE      MODIFIED    \n"+
		"qwen3:0.6b    8daa9615cce3    522 MB    2 hours ago    \n\n")
}

func TestHelpCoversEachSubject(t *testing.T) {
	newDaemon(t, nil)
	plain := "Available Commands:\n  /set            Set session variables\n"
	for line, want := range map[string]string{
		"/?": plain, "/help": plain,
		"/? set": helpSet, "/help /set": helpSet, "/set": helpSet, "/set system": helpSet,
		"/? show": helpShow, "/? shortcuts": helpShortcuts, "/? shortcut": helpShortcuts,
		"/set parameter": helpParameters, "/set parameter seed": helpParameters, "/? nope": "",
	} {
		_, out, errs := talk(t, &script{entries: []any{line}})
		if len(errs) < len(want) || errs[:len(want)] != want || (want == "" && errs != "") || out != "\n" {
			t.Errorf("%s prints %q and %q", line, out, errs)
		}
	}
}

func TestUnknownCommandsAreNotSentToTheModel(t *testing.T) {
	newDaemon(t, nil)
	_, out, _ := talk(t, &script{entries: []any{"/nope with words", "/", "/byebye"}})
	wantEqual(t, "output", out, "Unknown command '/nope'. Type /? for help\nUnknown command '/'. Type /? for help\nUnknown command '/byebye'. Type /? for help\n\n")
}
