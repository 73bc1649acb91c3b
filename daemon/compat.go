package daemon

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"
)

// The paths of the APIs that are not Ollama's own.
const (
	pathCompat   = "/v1/"
	pathMessages = "/v1/messages"
)

// errorBody is the body of an error in the form of the API that the path belongs to.
func errorBody(path string, status int, text string) any {
	switch {
	case strings.HasPrefix(path, pathMessages):
		return messagesError(status, text)
	case strings.HasPrefix(path, pathCompat):
		return openai.NewError(status, text)
	default:
		return gin.H{"error": text}
	}
}

// readCompat is readBody with the texts that Ollama has on these routes.
func readCompat(c *gin.Context, v any) error {
	err := json.NewDecoder(c.Request.Body).Decode(v)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return drain(c)
	case errors.As(err, &tooLarge):
		return err
	}
	if w, ok := v.(wrapper); ok {
		err = unwrapped(err, w.wraps())
	}
	return refuse(err)
}

// wrapper is a request type that embeds one of Ollama's and adds to it.
type wrapper interface{ wraps() reflect.Type }

// unwrapped makes the error of decoding a wrapper the one that decoding what it
// embeds would give: the text names the type.
func unwrapped(err error, embedded reflect.Type) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	plain, name := *wrong, embedded.Name()
	switch {
	case plain.Struct == "":
		plain.Type = embedded
	case strings.EqualFold(plain.Struct, name):
		plain.Struct = name
	}
	plain.Field = strings.TrimPrefix(plain.Field, name+".")
	return &plain
}

// refuse makes a bad request of what a converter says about one.
func refuse(err error) error { return newError(http.StatusBadRequest, err.Error()) }

// madeUp returns an id with a random number.
func madeUp(kind string) string { return kind + strconv.Itoa(rand.IntN(1_000_000_000)) }

// Ollama's converters make requests that Ollama then writes as JSON and reads
// again. asDecoded and lowerRoles do what that does to them.

// asDecoded gives options the types of decoded JSON.
func asDecoded(options map[string]any) {
	for name, v := range options {
		switch v := v.(type) {
		case int:
			options[name] = int64(v)
		case float32:
			options[name] = float64(v)
		case []string:
			options[name] = anyList(v)
		}
	}
}

// anyList keeps nil, which is an option that was not given.
func anyList(texts []string) any {
	if texts == nil {
		return nil
	}
	list := make([]any, len(texts))
	for i, t := range texts {
		list[i] = t
	}
	return list
}

func lowerRoles(messages []api.Message) {
	for i := range messages {
		messages[i].Role = strings.ToLower(messages[i].Role)
	}
}
