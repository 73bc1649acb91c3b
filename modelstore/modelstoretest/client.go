package modelstoretest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Client is how a Storm reaches a store. A call ends when the store has answered, or
// is gone.
type Client interface {
	Upload(ctx context.Context, digest string, content io.Reader) error
	Create(ctx context.Context, name string, of Source, system string, line func()) error
	Copy(ctx context.Context, from, to string) error
	Delete(ctx context.Context, name string) error
	Pull(ctx context.Context, name string, line func()) error
	// Prune may do nothing.
	Prune(ctx context.Context) error
}

// Source is what a model is made of: another model, or uploaded files, by their names'
// digests.
type Source struct {
	From     string            `json:"from,omitempty"`
	Files    map[string]string `json:"files,omitempty"`
	Adapters map[string]string `json:"adapters,omitempty"`
	Quantize string            `json:"quantize,omitempty"`
}

// Errors of a Client.
var (
	ErrGone    = errors.New("the store is gone") // what was asked for may have happened
	ErrMissing = errors.New("there is no such model")
)

// HTTP is a client of a daemon.
type HTTP struct {
	URL    string
	Client *http.Client
}

// Upload sends a blob.
func (h HTTP) Upload(ctx context.Context, digest string, content io.Reader) error {
	return h.call(ctx, http.MethodPost, "/api/blobs/"+digest, content, nil)
}

// Create makes a model. That a model which is not there can't be pulled either means
// that it is missing.
func (h HTTP) Create(ctx context.Context, name string, of Source, system string, line func()) error {
	body := struct {
		Model  string `json:"model"`
		System string `json:"system"`
		Source
	}{name, system, of}
	err := h.call(ctx, http.MethodPost, "/api/create", body, line)
	if err != nil && strings.HasPrefix(err.Error(), "pull model manifest: ") {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return err
}

// Copy copies a model.
func (h HTTP) Copy(ctx context.Context, from, to string) error {
	return h.call(ctx, http.MethodPost, "/api/copy", map[string]any{"source": from, "destination": to}, nil)
}

// Delete deletes a model.
func (h HTTP) Delete(ctx context.Context, name string) error {
	return h.call(ctx, http.MethodDelete, "/api/delete", map[string]any{"model": name}, nil)
}

// Pull pulls a model from a registry without TLS.
func (h HTTP) Pull(ctx context.Context, name string, line func()) error {
	return h.call(ctx, http.MethodPost, "/api/pull", map[string]any{"model": name, "insecure": true}, line)
}

// Prune does nothing: a daemon prunes when it starts.
func (h HTTP) Prune(context.Context) error { return nil }

// call sends a request. With line, the answer is lines of progress, each of which is
// told, and ends with success.
func (h HTTP) call(ctx context.Context, method, path string, body any, line func()) error {
	content, raw := body.(io.Reader)
	if !raw {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, h.URL+path, content)
	if err != nil {
		return err
	}
	resp, err := h.Client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return refusal(resp)
	}
	if line == nil {
		return nil
	}
	var last struct{ Status, Error string }
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); line() {
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			return fmt.Errorf("%w: half a line", ErrGone)
		}
		if last.Error != "" {
			return errors.New(last.Error)
		}
	}
	if last.Status != "success" {
		return fmt.Errorf("%w: the answer ends with %q", ErrGone, last.Status)
	}
	return nil
}

// refusal is the error that an answer tells.
func refusal(resp *http.Response) error {
	var body struct{ Error string }
	switch err := json.NewDecoder(resp.Body).Decode(&body); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrGone, err)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrMissing, body.Error)
	default:
		return fmt.Errorf("%s: %s", resp.Status, body.Error)
	}
}
