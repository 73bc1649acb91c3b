package daemon

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/modelstore"
	"cllm/scheduler"
)

// auto are a request's options when it says nothing about the engine.
var auto = runnerOptions{NumGPU: -1}

// startResidency starts a residency that is checked and stopped with the test.
func startResidency(t *testing.T, f *fakeLoader, change ...func(*Options)) *residency {
	t.Helper()
	o := testOptions(t, f)
	o.KeepAlive = 5 * time.Minute
	for _, c := range change {
		c(&o)
	}
	r := newResidency(o, scheduler.NewQueue(o.MaxQueue))
	go r.run()
	t.Cleanup(func() {
		r.stop()
		<-r.done
		f.check(t)
		if n := r.queue.Waiting(); n != 0 {
			t.Errorf("%d places in the queue were not given back", n)
		}
	})
	return r
}

func mustAcquire(t *testing.T, r *residency, m *modelstore.Model, num runnerOptions, keepAlive *api.Duration) *lease {
	t.Helper()
	l, err := r.acquire(t.Context(), m, num, keepAlive)
	if err != nil {
		t.Fatalf("acquire %s: %v", m.Name.Model, err)
	}
	return l
}

// use acquires a model and gives it back.
func use(t *testing.T, r *residency, m *modelstore.Model, num runnerOptions, keepAlive *api.Duration) {
	t.Helper()
	mustAcquire(t, r, m, num, keepAlive).release()
	synctest.Wait()
}

// residentNames are the names of the models in memory.
func residentNames(r *residency) string {
	var names []string
	for _, info := range r.list() {
		names = append(names, info.model.Name.Model)
	}
	return strings.Join(names, " ")
}

func wantResident(t *testing.T, r *residency, want string) {
	t.Helper()
	synctest.Wait()
	if got := residentNames(r); got != want {
		t.Errorf("resident: %q, want %q", got, want)
	}
}

func lasting(d time.Duration) *api.Duration { return &api.Duration{Duration: d} }

func TestModelIsLoadedOnceForAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{before: func(context.Context, LoadSpec, func(float32)) error {
			time.Sleep(3 * time.Second)
			return nil
		}}
		r := startResidency(t, f)
		m := testModel(t, "m", 1)
		const clients = 100
		waited := make(chan time.Duration, clients)
		for range clients {
			go func() {
				l, err := r.acquire(t.Context(), m, auto, nil)
				if err != nil {
					t.Error(err)
					waited <- 0
					return
				}
				waited <- l.loadDuration
				l.release()
				l.release()
			}()
		}
		for range clients {
			if d := <-waited; d != 3*time.Second {
				t.Errorf("load_duration is %s", d)
			}
		}
		if n := len(f.loads()); n != 1 {
			t.Errorf("%d loads", n)
		}
		if l := mustAcquire(t, r, m, auto, nil); l.loadDuration != 0 || l.context != 4096 || l.model != m {
			t.Errorf("lease of a resident model: %+v", l)
		} else {
			l.release()
		}
		wantResident(t, r, "m")
	})
}

func TestModelGoesWhenItsKeepAliveEnds(t *testing.T) {
	for _, tt := range []struct {
		name      string
		keepAlive *api.Duration
		stays     time.Duration // it is there just before, and gone just after
	}{
		{"default", nil, 5 * time.Minute},
		{"longer", lasting(time.Hour), time.Hour},
		{"shorter", lasting(time.Second), time.Second},
		{"zero", lasting(0), 0},
		{"for ever", lasting(forever), -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startResidency(t, &fakeLoader{})
				l := mustAcquire(t, r, testModel(t, "m", 1), auto, tt.keepAlive)
				time.Sleep(24 * time.Hour)
				wantResident(t, r, "m") // as long as the lease is held
				l.release()
				synctest.Wait()
				switch {
				case tt.stays < 0:
					time.Sleep(10 * 365 * 24 * time.Hour)
					wantResident(t, r, "m")
					return
				case tt.stays > 0:
					time.Sleep(tt.stays - 1)
					wantResident(t, r, "m")
					time.Sleep(time.Nanosecond)
				}
				wantResident(t, r, "")
			})
		})
	}
}

func TestKeepAliveReplacesThatOfTheModelForEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResidency(t, &fakeLoader{})
		m := testModel(t, "m", 1)
		use(t, r, m, auto, lasting(time.Hour))
		use(t, r, m, auto, lasting(time.Minute))
		use(t, r, m, auto, nil) // says nothing: the minute stands, and begins anew
		time.Sleep(time.Minute - 1)
		wantResident(t, r, "m")
		time.Sleep(time.Nanosecond)
		wantResident(t, r, "")
	})
}

func TestRequestStartsTheKeepAliveAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startResidency(t, &fakeLoader{})
		m := testModel(t, "m", 1)
		for range 5 {
			use(t, r, m, auto, nil)
			time.Sleep(5*time.Minute - 1)
			wantResident(t, r, "m")
		}
	})
}

func TestUnloadWaitsForTheRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		r := startResidency(t, f)
		m := testModel(t, "m", 1)
		r.unload(m) // not there: nothing happens
		first := mustAcquire(t, r, m, auto, nil)
		r.unload(m)
		wantResident(t, r, "m")
		if info := r.list()[0]; info.expires.After(time.Now()) {
			t.Errorf("a model that is being unloaded expires at %s", info.expires)
		}
		second := mustAcquire(t, r, m, auto, nil) // keeps the zero
		first.release()
		wantResident(t, r, "m")
		second.release()
		wantResident(t, r, "")
		if n := len(f.loads()); n != 1 {
			t.Errorf("%d loads", n)
		}
		use(t, r, m, auto, nil) // the zero went with the model
		wantResident(t, r, "m")
		r.unload(m)
		wantResident(t, r, "")
	})
}

func TestModelsOfOneBlobShareWeightsAndScheduler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		r := startResidency(t, f)
		a := testModel(t, "a", 1)
		b := &modelstore.Model{Name: a.Name, ModelPath: a.ModelPath, System: "You are b."}
		b.Name.Model = "b"
		adapted := &modelstore.Model{Name: a.Name, ModelPath: a.ModelPath, AdapterPaths: []string{a.ModelPath}}
		la, lb := mustAcquire(t, r, a, auto, nil), mustAcquire(t, r, b, auto, nil)
		if la.sched != lb.sched {
			t.Error("two schedulers for one blob")
		}
		if lb.model != b {
			t.Error("the lease is for another model's template and system text")
		}
		wantResident(t, r, "b") // as the last request named it
		lc := mustAcquire(t, r, adapted, auto, nil)
		if lc.sched == la.sched {
			t.Error("an adapter was ignored")
		}
		for _, l := range []*lease{la, lb, lc} {
			l.release()
		}
		if n := len(f.loads()); n != 2 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestOnlyOptionsOfTheEngineReload(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		name        string
		first, then runnerOptions
		reload      bool
	}{
		{"same", auto, auto, false},
		{"num_ctx", runnerOptions{NumGPU: -1, NumCtx: 2048}, runnerOptions{NumGPU: -1, NumCtx: 8192}, false},
		{"num_batch", runnerOptions{NumGPU: -1, NumBatch: 512}, runnerOptions{NumGPU: -1, NumBatch: 64}, false},
		{"num_gpu", auto, runnerOptions{NumGPU: 3}, true},
		{"num_gpu left to us", runnerOptions{NumGPU: 3}, auto, false},
		{"main_gpu", auto, runnerOptions{NumGPU: -1, MainGPU: 1}, true},
		{"use_mmap", runnerOptions{NumGPU: -1, UseMMap: &yes}, runnerOptions{NumGPU: -1, UseMMap: &no}, true},
		{"use_mmap left to us", runnerOptions{NumGPU: -1, UseMMap: &yes}, auto, false},
		{"num_thread", auto, runnerOptions{NumGPU: -1, NumThread: 3}, true},
		{"num_thread left to us", runnerOptions{NumGPU: -1, NumThread: 3}, auto, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeLoader{}
				r := startResidency(t, f)
				m := testModel(t, "m", 1)
				use(t, r, m, tt.first, nil)
				use(t, r, m, tt.then, nil)
				if got := len(f.loads()) == 2; got != tt.reload {
					t.Errorf("reloaded: %v", got)
				}
				if n := f.freed(); n != len(f.loads())-1 {
					t.Errorf("%d models were freed", n)
				}
			})
		})
	}
}

func TestReloadWaitsForRequestsAndHoldsUpOnlyItsModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		r := startResidency(t, f)
		m, other := testModel(t, "m", 1), testModel(t, "other", 1)
		l := mustAcquire(t, r, m, auto, nil)
		reloaded := acquireLater(t, r, m, runnerOptions{NumGPU: 1})
		synctest.Wait()
		late := acquireLater(t, r, m, auto)
		synctest.Wait()
		use(t, r, other, auto, nil)
		if len(f.loads()) != 2 || len(reloaded)+len(late) != 0 {
			t.Fatalf("%d loads while the model was in use", len(f.loads()))
		}
		l.release()
		(<-reloaded).release()
		(<-late).release()
		if specs := f.loads(); len(specs) != 3 || specs[2].GPU != 1 {
			t.Errorf("loads: %+v", specs)
		}
	})
}

// acquireLater acquires in the background.
func acquireLater(t *testing.T, r *residency, m *modelstore.Model, num runnerOptions) chan *lease {
	t.Helper()
	out := make(chan *lease, 1)
	ctx := t.Context()
	go func() {
		l, err := r.acquire(ctx, m, num, nil)
		if err != nil {
			t.Error(err)
		}
		out <- l
	}()
	return out
}
