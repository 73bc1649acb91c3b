package daemon

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// The golden bodies: what is sent to each route and what comes back, as files.
//
// A case is a pair of files anywhere under testdata/golden: NAME.http holds the
// requests, NAME.want the answers. Each case has a daemon of its own (serveFake),
// so nothing that one does is seen by another. It runs on a clock of its own, and a
// token is made when all that came before has been read: a stream always has the
// same pieces. To add a case write its NAME.http,
// run `go test ./daemon -run TestGolden -update`, and read the NAME.want that it
// wrote before committing both.
//
// NAME.http is one request, or several that are sent one after another and are
// separated by lines of "###":
//
//	# a comment
//	# says "<think>\nhm</think>\nhello"
//	POST /api/chat
//	Origin: http://localhost
//
//	{"model": "thinker", "messages": [{"role": "user", "content": "hi"}]}
//
// Its first line is the method and the path; header lines may follow, and after an
// empty line the body. A Host header replaces the address. "# says" sets what the
// model says from here on (in Go's quotes where there are quotes or line ends); a
// model that was told nothing says "hello". "<models>" in a body is the model
// folder.
//
// NAME.want is, for each request, the status, all header lines except the ones that
// say how the body was sent, and the body: JSON with its keys in order, NDJSON
// and SSE an event at a time, everything else as it came. What differs between two
// runs is checked for its shape and written as a mark in "<>"; golden_form_test.go
// has the list.
var update = flag.Bool("update", false, "write the golden answers instead of comparing with them")

const goldenFolder = "testdata/golden"

func TestGolden(t *testing.T) {
	for name := range goldenFiles(t, ".http") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := readGolden(t, name+".http")
			var got string
			synctest.Test(t, func(t *testing.T) { got = goldenAnswers(t, asked) })
			if *update {
				if err := os.WriteFile(goldenPath(name+".want"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(readGolden(t, name+".want"), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("the answers to %s are not what %s.want says (-want +got):\n%s", goldenPath(name+".http"), name, diff)
			}
		})
	}
}

// A file that no case reads would hold a promise that nothing keeps.
func TestEveryGoldenFileBelongsToACase(t *testing.T) {
	asked, wanted := goldenFiles(t, ".http"), goldenFiles(t, ".want")
	if len(asked) == 0 {
		t.Fatalf("there is no case in %s", goldenFolder)
	}
	for name := range wanted {
		if !asked[name] {
			t.Errorf("%s.want has no %s.http", name, filepath.Base(name))
		}
	}
	for name := range asked {
		if !wanted[name] {
			t.Errorf("%s.http has no %s.want; run with -update", name, filepath.Base(name))
		}
	}
	for name := range goldenFiles(t, "") {
		if ext := filepath.Ext(name); ext != ".http" && ext != ".want" {
			t.Errorf("%s is neither a request nor an answer", name)
		}
	}
}

// goldenFiles returns the names with an ending, without it.
func goldenFiles(t *testing.T, ending string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(goldenFolder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		path, err = filepath.Rel(goldenFolder, path)
		if name, ok := strings.CutSuffix(filepath.ToSlash(path), ending); ok {
			names[name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func goldenPath(name string) string { return filepath.Join(goldenFolder, filepath.FromSlash(name)) }

func readGolden(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(goldenPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}

const goldenRule = "###\n"

// goldenAnswers sends the requests of a case and returns all answers in the form
// in which they are kept.
func goldenAnswers(t *testing.T, asked string) string {
	t.Helper()
	says := "hello"
	p := newPipes()
	a := serveFake(t, func(string) string { return says }, func(o *Options, e *llmtest.Options) {
		o.listen = func(string) (net.Listener, error) { return p, nil }
		e.BeforeDecode = func([]llm.Row) error {
			time.Sleep(time.Millisecond) // of the case's clock: until everybody waits
			return nil
		}
	})
	agedModels(t, a)
	client := p.client(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	form := newGoldenForm(a)
	var answers []string
	for text := range strings.SplitSeq(asked, goldenRule) {
		req, script, err := parseGolden(a, text)
		if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if script != nil {
			says = *script
		}
		answers = append(answers, goldenAnswer(t, client, form, req))
	}
	return strings.Join(answers, goldenRule)
}

// agedModels gives the models different ages, so that lists have one order.
func agedModels(t *testing.T, a *testAPI) {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(a.opts.Models, "manifests", "*", "*", "*", "*"))
	if err != nil || len(manifests) == 0 {
		t.Fatal(manifests, err)
	}
	for i, path := range manifests {
		at := time.Date(2025, 1, 1, 0, i, 0, 0, time.UTC)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// parseGolden returns one request of a case, and what the model is to say if that
// changes.
func parseGolden(a *testAPI, text string) (req *http.Request, says *string, err error) {
	head, body, _ := strings.Cut(text, "\n\n")
	body = strings.ReplaceAll(strings.TrimSuffix(body, "\n"), modelsMark, a.opts.Models)
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		switch comment, isComment := strings.CutPrefix(line, "#"); {
		case isComment:
			script, ok := strings.CutPrefix(strings.TrimSpace(comment), "says ")
			if !ok {
				continue
			}
			if strings.HasPrefix(script, `"`) {
				if script, err = strconv.Unquote(script); err != nil {
					return nil, nil, fmt.Errorf("bad quotes after says: %w", err)
				}
			}
			says = &script
		case req == nil:
			method, path, _ := strings.Cut(line, " ")
			if req, err = http.NewRequest(method, a.url+path, strings.NewReader(body)); err != nil {
				return nil, nil, err
			}
			if body != "" {
				req.Header.Set("Content-Type", "application/json")
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, nil, fmt.Errorf("%q is not a header line", line)
			}
			if value = strings.TrimSpace(value); strings.EqualFold(name, "Host") {
				req.Host = value
			} else {
				req.Header.Set(name, value)
			}
		}
	}
	if req == nil {
		return nil, nil, errors.New("no request")
	}
	return req, says, nil
}

// howSent are header lines about the connection, not the answer.
var howSent = []string{"Date", "Content-Length", "Transfer-Encoding", "Connection"}

func goldenAnswer(t *testing.T, client *http.Client, form *goldenForm, req *http.Request) string {
	t.Helper()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, res.StatusCode)
	for _, name := range slices.Sorted(maps.Keys(res.Header)) {
		if !slices.Contains(howSent, name) {
			for _, value := range res.Header[name] {
				fmt.Fprintf(&b, "%s: %s\n", name, form.text(value))
			}
		}
	}
	if len(body) > 0 {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSuffix(form.body(res.Header.Get("Content-Type"), string(body)), "\n"))
	}
	return b.String()
}
