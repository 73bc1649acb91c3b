package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/modelstore"
)

func newDaemon(t *testing.T, o Options) *Daemon {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// alive asks a daemon for its version.
func alive(d *Daemon) error {
	res, err := http.Get("http://" + d.Addr().String() + "/api/version")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return errors.Join(err, errors.New(res.Status))
	}
	return nil
}

func TestStartServesAndStopEnds(t *testing.T) {
	d := newDaemon(t, testOptions(t, &fakeLoader{}))
	if a := d.Addr(); a != nil {
		t.Errorf("the address before Start is %s", a)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if err := alive(d); err != nil {
		t.Error(err)
	}
	if err := d.Start(); err == nil {
		t.Error("it could be started twice")
	}
	if err := alive(d); err != nil {
		t.Errorf("after a second Start: %v", err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if err := alive(d); err == nil {
		t.Error("it answers after Stop")
	}
}

func TestStopTwice(t *testing.T) {
	d := newDaemon(t, testOptions(t, &fakeLoader{}))
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestStopBeforeStart(t *testing.T) {
	d := newDaemon(t, testOptions(t, &fakeLoader{}))
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if err := d.Start(); err == nil {
		t.Error("it was started after Stop")
	}
}

func TestStartAfterStopFails(t *testing.T) {
	d := newDaemon(t, testOptions(t, &fakeLoader{}))
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err == nil || !strings.Contains(err.Error(), "was stopped") {
		t.Errorf("start after stop: %v", err)
	}
}

func TestTwoDaemonsInOneProcess(t *testing.T) {
	a, b := newDaemon(t, testOptions(t, &fakeLoader{})), newDaemon(t, testOptions(t, &fakeLoader{}))
	for _, d := range []*Daemon{a, b} {
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	if err := alive(b); err != nil {
		t.Errorf("the second died with the first: %v", err)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
}

func TestPortInUseFailsCleanly(t *testing.T) {
	first := newDaemon(t, testOptions(t, &fakeLoader{}))
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	o := testOptions(t, &fakeLoader{})
	o.Listen = first.Addr().String()
	second := newDaemon(t, o)
	if err := second.Start(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("start: %v", err)
	}
	if err := second.Stop(); err != nil {
		t.Errorf("stop after a failed start: %v", err)
	}
	if err := first.Stop(); err != nil {
		t.Error(err)
	}
	third := newDaemon(t, o) // the port is free again
	if err := third.Start(); err != nil {
		t.Error(err)
	}
	third.Stop()
}

func TestFailedCleanupsAreNamedAndTheOthersRun(t *testing.T) {
	d := newDaemon(t, testOptions(t, &fakeLoader{}))
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, name := range []string{"first", "second"} {
		d.onStop(name, func(context.Context) error {
			order = append(order, name)
			return errors.New("broken")
		})
	}
	err := d.Stop()
	if err == nil || err.Error() != "stop second: broken\nstop first: broken" {
		t.Errorf("Stop: %v", err)
	}
	if got := strings.Join(order, " "); got != "second first" {
		t.Errorf("order: %s", got)
	}
	if err := alive(d); err == nil {
		t.Error("it still answers")
	}
}

func TestConcurrentStartAndStop(t *testing.T) {
	for range 20 {
		d := newDaemon(t, testOptions(t, &fakeLoader{}))
		var all sync.WaitGroup
		all.Go(func() { _ = d.Start() }) // fails when a Stop was faster
		all.Go(func() {
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() { d.Addr() })
		all.Wait()
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if d.Addr() != nil && alive(d) == nil {
			t.Error("it answers after Stop")
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	d := newDaemon(t, testOptions(t, &fakeLoader{}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRunEndsWhenThePortBreaks(t *testing.T) {
	o := testOptions(t, &fakeLoader{})
	p := newPipes()
	o.listen = func(string) (net.Listener, error) { return p, nil }
	d := newDaemon(t, o)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(t.Context()) }()
	p.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the port can't be served any more") {
		t.Errorf("Run: %v", err)
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"OLLAMA_NUM_PARALLEL is 1 to 256": func(o *Options) { o.Slots = 257 },
		"no loader":                       func(o *Options) { o.Loader = nil },
		"no model folder":                 func(o *Options) { o.Models = "" },
		"negative":                        func(o *Options) { o.MaxQueue = -1 },
		"OLLAMA_ORIGINS: bad origin":      func(o *Options) { o.Origins = []string{"nonsense"} },
		"more than one *":                 func(o *Options) { o.Origins = []string{"http://*.*"} },
		"missing closing":                 func(o *Options) { o.Origins = []string{"/http://(/"} },
		"set OLLAMA_MODELS":               func(o *Options) { o.Models = "/dev/null/models" },
	} {
		o := testOptions(t, &fakeLoader{})
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// slowDaemon serves a fake engine that takes a second per token, on pipes, within a
// synctest bubble.
func slowDaemon(t *testing.T) (*Daemon, *testAPI, *pipes) {
	t.Helper()
	p := newPipes()
	f := &fakeLoader{}
	f.engine.BeforeDecode = func([]llm.Row) error {
		time.Sleep(time.Second)
		return nil
	}
	o := testOptions(t, f)
	o.KeepAlive = time.Minute
	o.NoPrune = true
	o.listen = func(string) (net.Listener, error) { return p, nil }
	d := newDaemon(t, o)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop()
		f.check(t)
	})
	a := &testAPI{Daemon: d, t: t, loader: f}
	a.create("plain", modelstore.CreateRequest{Template: chatML})
	return d, a, p
}

// generateLines asks for n tokens and returns the lines of the stream.
func generateLines(t *testing.T, client *http.Client, n string) <-chan []string {
	t.Helper()
	out := make(chan []string, 1)
	go func() {
		defer close(out)
		res, err := client.Post("http://localhost/api/generate", "", strings.NewReader(`{"model":"plain","prompt":"hi","raw":true,"options":{"num_predict":`+n+`}}`))
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		var lines []string
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			lines = append(lines, s.Text())
		}
		out <- lines
	}()
	return out
}

func TestStopLetsAnswersFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, p := slowDaemon(t)
		answer := generateLines(t, p.client(t), "8")
		time.Sleep(2500 * time.Millisecond)
		start := time.Now()
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 9*time.Second {
			t.Errorf("Stop took %s", took)
		}
		lines := <-answer
		if last := lines[len(lines)-1]; !strings.Contains(last, `"done":true,"done_reason":"length"`) {
			t.Errorf("the answer ends with %s", last)
		}
		if _, err := p.dial(t.Context(), "", ""); err == nil {
			t.Error("the port is open after Stop")
		}
	})
}

func TestStopEndsLongAnswersWithALastLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, p := slowDaemon(t)
		client := p.client(t)
		answers := []<-chan []string{generateLines(t, client, "1000"), generateLines(t, client, "1000"), generateLines(t, client, "3")}
		time.Sleep(1500 * time.Millisecond)
		start := time.Now()
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 14*time.Second {
			t.Errorf("Stop took %s", took)
		}
		for i, want := range []string{`{"error":"` + textStopped, `{"error":"` + textStopped, `"done":true`} {
			lines := <-answers[i]
			if len(lines) == 0 || !strings.Contains(lines[len(lines)-1], want) {
				t.Errorf("answer %d ends with %q", i, lines)
			}
		}
	})
}

func TestStopCutsOffClientsThatDontRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, p := slowDaemon(t)
		c := dialPipe(t, p)
		body := `{"model":"plain","prompt":"hi","raw":true,"options":{"num_predict":1000}}`
		fmt.Fprintf(c, "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		time.Sleep(2500 * time.Millisecond) // nothing of the answer is read
		start := time.Now()
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 16*time.Second {
			t.Errorf("Stop took %s", took)
		}
	})
}

func TestStopEndsALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a, p := slowDaemon(t)
		a.loader.before = func(ctx context.Context, _ LoadSpec, _ func(float32)) error {
			<-ctx.Done()
			return ctx.Err()
		}
		client := p.client(t)
		answer := make(chan string, 1)
		go func() {
			res, err := client.Post("http://localhost/api/generate", "", strings.NewReader(`{"model":"plain"}`))
			if err != nil {
				answer <- err.Error()
				return
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			answer <- res.Status + string(text)
		}()
		time.Sleep(time.Second)
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if got := <-answer; got != `503 Service Unavailable{"error":"the server is stopping"}` {
			t.Errorf("a request that waited for a load got %s", got)
		}
	})
}
