package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cllm/modelstore"
)

func TestNoRequestIsAnsweredBeforeTheDemoModelIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		client := p.client(t)
		var answered atomic.Bool
		done := make(chan struct{})
		o := testOptions(t, &fakeLoader{})
		o.listen = func(string) (net.Listener, error) { return p, nil }
		o.Demo = func(context.Context, *modelstore.Store) error {
			go func() {
				defer close(done)
				res, err := client.Get("http://localhost/api/version")
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				answered.Store(true)
			}()
			synctest.Wait()
			if answered.Load() {
				t.Error("a request was answered")
			}
			return nil
		}
		d := newDaemon(t, o)
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		<-done
		if !answered.Load() {
			t.Error("the request that came early was not answered later")
		}
		client.CloseIdleConnections()
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutItsDemoModelTheDaemonServesAndSaysWhy(t *testing.T) {
	for level, failure := range map[string]error{
		"WARN":  fmt.Errorf("not here: %w", modelstore.ErrReadOnly),
		"ERROR": errors.New("it is damaged: build cllm anew"),
	} {
		var log strings.Builder
		o := testOptions(t, &fakeLoader{})
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		o.Demo = func(context.Context, *modelstore.Store) error { return failure }
		d := newDaemon(t, o)
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		if err := alive(d); err != nil {
			t.Error(err)
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		want := fmt.Sprintf("level=%s msg=\"the demo model is not in the model folder\" error=%q", level, failure)
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
}

func TestADaemonThatCannotStartLeavesTheModelFolderAlone(t *testing.T) {
	o := testOptions(t, &fakeLoader{})
	o.listen = func(string) (net.Listener, error) { return nil, errors.New("the port is in use") }
	o.Demo = func(context.Context, *modelstore.Store) error {
		t.Error("the demo model was put into the store")
		return nil
	}
	if err := newDaemon(t, o).Start(); err == nil {
		t.Error("it has started without a port")
	}
}
