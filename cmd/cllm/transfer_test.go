package main

import (
	"net/http"
	"testing"
)

func TestPullPrintsEachStatusAndFullLayerOnceWithoutATerminal(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/pull": streams(
		`{"status":"pulling manifest"}`,
		`{"status":"pulling 7f4030143c1c","digest":"sha256:7f4030143c1c477224c5434f8272c662a8b042079a0a584f0a27a1684fe2e1fa","total":100}`,
		`{"status":"pulling 7f4030143c1c","digest":"sha256:7f4030143c1c477224c5434f8272c662a8b042079a0a584f0a27a1684fe2e1fa","total":100,"completed":40}`,
		`{"status":"pulling 7f4030143c1c","digest":"sha256:7f4030143c1c477224c5434f8272c662a8b042079a0a584f0a27a1684fe2e1fa","total":100,"completed":100}`,
		`{"status":"pulling 7f4030143c1c","digest":"sha256:7f4030143c1c477224c5434f8272c662a8b042079a0a584f0a27a1684fe2e1fa","total":100,"completed":100}`,
		`{"status":"verifying sha256 digest"}`,
		`{"status":"verifying sha256 digest"}`,
		`{"status":"writing manifest"}`,
		`{"status":"success"}`,
	)})
	wantResult(t, cllm("", "pull", "--insecure", "m"), result{Err: "" +
		"pulling manifest\npulling 7f4030143c1c: 100%\nverifying sha256 digest\nwriting manifest\nsuccess\n"})
	d.wantJSON("POST /api/pull", `{"model":"m","insecure":true,"username":"","password":"","name":""}`)
}

func TestPullThatBreaksOffFails(t *testing.T) {
	tests := map[string]struct {
		answer http.HandlerFunc
		want   result
	}{
		"with an error": {
			streams(`{"status":"pulling manifest"}`, `{"error":"pull model manifest: file does not exist"}`),
			result{Err: "pulling manifest\nError: pull model manifest: file does not exist\n", Code: 1},
		},
		"without a word": {
			streams(`{"status":"pulling manifest"}`),
			result{Err: "pulling manifest\nError: the connection to the server was lost before it reported success; try again\n", Code: 1},
		},
		"at once":       {fails(400, `{"error":"invalid model name"}`), result{Err: "Error: 400 Bad Request: invalid model name\n", Code: 1}},
		"short digests": {streams(`{"digest":"sha256:ab","completed":1,"total":1}`, `{"digest":"x","completed":1,"total":1}`, `{"status":"success"}`), result{Err: "pulling ab: 100%\npulling x: 100%\nsuccess\n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, map[string]http.HandlerFunc{"POST /api/pull": test.answer})
			wantResult(t, cllm("", "pull", "m"), test.want)
		})
	}
}

var (
	signedIn = says(`{"name":"someone"}`)
	pushed   = streams(
		`{"status":"retrieving manifest"}`,
		`{"status":"pushing 7f4030143c1c","digest":"sha256:7f4030143c1c477224c5","total":10,"completed":10}`,
		`{"status":"pushing manifest"}`,
		`{"status":"success"}`,
	)
)

const pushLines = "retrieving manifest\npushing 7f4030143c1c 100%\npushing manifest\nsuccess\n"

func TestPushTellsWhereTheModelIs(t *testing.T) {
	d := newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": signedIn, "POST /api/push": pushed})
	wantResult(t, cllm("", "push", "someone/m"), result{
		Out: "\nYou can find your model at:\n\n\thttps://ollama.com/someone/m\n", Err: pushLines,
	})
	d.wantJSON("POST /api/push", `{"model":"someone/m","username":"","password":"","name":""}`)
}

func TestPushToAnotherRegistryNeedsNoAccount(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/push": pushed})
	wantResult(t, cllm("", "push", "registry.local/someone/m", "--insecure"), result{
		Out: "\nYou can find your model at:\n\n\tregistry.local/someone/m:latest\n", Err: pushLines,
	})
}

func TestPushNeedsASignIn(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": fails(401, `{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=a&key=b"}`)})
	wantResult(t, cllm("", "push", "someone/m"), result{Out: "You need to be signed in to push models to ollama.com.\n\n" +
		"If your browser did not open, navigate to:\n    https://ollama.com/connect?name=a&key=b\n\n"})
}

func TestPushGoesOnWhereTheDaemonHasNoAccounts(t *testing.T) {
	for _, me := range []http.HandlerFunc{fails(404, "404 page not found"), fails(401, `{"error":"unauthorized"}`)} {
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": me, "POST /api/push": pushed})
		if got := cllm("", "push", "someone/m"); got.Code != 0 {
			t.Errorf("got %+v", got)
		}
	}
}

func TestPushToAForeignNamespaceExplainsItself(t *testing.T) {
	for _, text := range []string{"max retries exceeded: unauthorized: access denied", "Unauthorized"} {
		newDaemon(t, map[string]http.HandlerFunc{
			"POST /api/me":   signedIn,
			"POST /api/push": streams(`{"status":"retrieving manifest"}`, `{"error":"`+text+`"}`),
		})
		wantResult(t, cllm("", "push", "m"), result{
			Err:  "retrieving manifest\nError: you are not authorized to push to this namespace, create the model under a namespace you own\n",
			Code: 1,
		})
	}
}
