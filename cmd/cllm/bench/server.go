package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/ollama/ollama/api"
)

// probeTimeout ends a question about the server itself.
const probeTimeout = 10 * time.Second

// target is a server whose API, version and model are known.
type target struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	API     string `json:"api"`
	Version string `json:"version,omitempty"`
	Model   string `json:"model"`

	protocol protocol
	// tokens = fixed + perWord · words, by the server's own count of two prompts.
	fixed, perWord float64
	// closes: the server ends the connection of each streamed reply, though it has said
	// keep-alive. A request that is sent meanwhile would be lost.
	closes bool
	// again counts the servers before this one with the same address, which gets
	// prompts of its own each time.
	again int
}

// protocol is one way to ask for text and to read the reply.
type protocol struct {
	path string
	// body makes the request.
	body func(model, prompt string, o Options, maxTokens int) any
	// line reads one line of the reply into it.
	line func(line []byte, r *reply) error
	// whole reads a reply that is not streamed.
	whole func(body []byte, r *reply) error
}

var protocols = map[string]protocol{apiOllama: ollamaProtocol, apiOpenAI: openAIProtocol}

// find asks a server what it speaks, which version it is and which model it has.
func find(ctx context.Context, client *http.Client, s Server, o Options) (*target, error) {
	t := &target{Name: s.Name, URL: s.URL, API: s.API}
	if err := t.findAPI(ctx, client); errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("nothing listens at %s, where the server %s should be: start it, or correct the address", s.URL, s.Name)
	} else if err != nil {
		return nil, fmt.Errorf("the server %s at %s: %w", s.Name, s.URL, err)
	}
	t.protocol = protocols[t.API]
	t.Model = o.Model
	if t.Model == "" {
		model, err := t.firstModel(ctx, client)
		if err != nil {
			return nil, fmt.Errorf("the models of %s: %w", s.Name, err)
		}
		t.Model = model
	}
	return t, nil
}

// findAPI sets the API, if it is not given, and the version, if the server says it.
func (t *target) findAPI(ctx context.Context, client *http.Client) error {
	var ollama struct{ Version string }
	var props struct {
		BuildInfo string `json:"build_info"`
	}
	if t.API != apiOpenAI {
		err := getJSON(ctx, client, t.URL+"/api/version", &ollama)
		if err == nil && ollama.Version != "" {
			t.API, t.Version = apiOllama, ollama.Version
		}
		if unreachable(err) {
			return err
		}
		if t.API == apiOllama {
			return nil
		}
	}
	err := getJSON(ctx, client, t.URL+"/props", &props)
	t.Version = props.BuildInfo
	// As llama.cpp's tools/server/server-http.cpp does: at the end of a stream it tells
	// its HTTP library what that takes for a failure.
	t.closes = t.Version != ""
	if unreachable(err) {
		return err
	}
	if t.API == "" && (err != nil || t.Version == "") {
		var models any
		if err := getJSON(ctx, client, t.URL+"/v1/models", &models); err != nil {
			return fmt.Errorf("it answers neither /api/version as Ollama does, nor /props as llama-server, nor /v1/models (%w); name its API with ollama+ or openai+ before the address", err)
		}
	}
	t.API = apiOpenAI
	return nil
}

// unreachable tells whether a request came to no answer at all.
func unreachable(err error) bool {
	var status api.StatusError
	return err != nil && !errors.As(err, &status) && !errors.Is(err, errNotJSON)
}

// firstModel returns the first model that the server lists.
func (t *target) firstModel(ctx context.Context, client *http.Client) (string, error) {
	var list struct {
		Models []struct{ Name string }
		Data   []struct{ ID string }
	}
	path := "/api/tags"
	if t.API == apiOpenAI {
		path = "/v1/models"
	}
	if err := getJSON(ctx, client, t.URL+path, &list); err != nil {
		return "", err
	}
	switch {
	case t.API == apiOllama && len(list.Models) > 0:
		return list.Models[0].Name, nil
	case t.API == apiOpenAI && len(list.Data) > 0:
		return list.Data[0].ID, nil
	}
	return "", errors.New("it has none; give it one, or name one with --model")
}

var errNotJSON = errors.New("the answer is no JSON")

func getJSON(ctx context.Context, client *http.Client, address string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return statusError(resp, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %w", errNotJSON, err)
	}
	return nil
}

// statusError is an answer that is not 200, with the text that the server gave in
// Ollama's or OpenAI's form.
func statusError(resp *http.Response, body []byte) error {
	return api.StatusError{StatusCode: resp.StatusCode, Status: resp.Status, ErrorMessage: short(errorText(body))}
}

// errorText takes the text out of {"error":"text"} and {"error":{"message":"text"}}.
func errorText(body []byte) string {
	var outer struct{ Error json.RawMessage }
	var text string
	var inner struct{ Message string }
	if json.Unmarshal(body, &outer) == nil && outer.Error != nil {
		if json.Unmarshal(outer.Error, &text) != nil {
			_ = json.Unmarshal(outer.Error, &inner) // an error of another form is shown as it came
			text = inner.Message
		}
	}
	return cmp.Or(text, strings.TrimSpace(string(body)))
}

// short keeps what a server sends from filling the report.
func short(text string) string {
	const most = 200
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
