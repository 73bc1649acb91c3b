package main

import (
	"net/http"
	"testing"
)

func TestSignInSaysWhereOrWho(t *testing.T) {
	for _, command := range []string{"signin", "login"} {
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": fails(401, `{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=a&key=b"}`)})
		wantResult(t, cllm("", command), result{Out: "You need to be signed in to Ollama to run Cloud models.\n\n" +
			"If your browser did not open, navigate to:\n    https://ollama.com/connect?name=a&key=b\n\n"})
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": signedIn})
		wantResult(t, cllm("", command), result{Out: "You are already signed in as user 'someone'\n\n"})
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": fails(500, `{"error":"URL parse error"}`)})
		wantResult(t, cllm("", command), result{Err: "Error: URL parse error\n", Code: 1})
	}
}

func TestSignInToADaemonWithoutAccountsFails(t *testing.T) {
	newDaemon(t, map[string]http.HandlerFunc{"POST /api/me": fails(401, `{"error":"unauthorized"}`)})
	wantResult(t, cllm("", "signin"), result{
		Err: "Error: this server has no accounts: it runs the models of its own folder, and none of ollama.com's cloud\n", Code: 1,
	})
}

func TestSignOutSaysWhatItDid(t *testing.T) {
	for _, command := range []string{"signout", "logout"} {
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/signout": says("null")})
		wantResult(t, cllm("", command), result{Out: "You have signed out of ollama.com\n\n"})
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/signout": fails(401, `{"error":"you are not currently signed in"}`)})
		wantResult(t, cllm("", command), result{Out: "You are not signed in to ollama.com\n\n"})
		newDaemon(t, map[string]http.HandlerFunc{"POST /api/signout": fails(500, `{"error":"there was an error signing out"}`)})
		wantResult(t, cllm("", command), result{Err: "Error: there was an error signing out\n", Code: 1})
	}
}
