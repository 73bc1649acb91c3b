package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/llm"
	"cllm/llm/llmtest"
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
					time.Sleep(1)
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
		time.Sleep(1)
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

func TestModelsMakeRoomForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		r := startResidency(t, f, func(o *Options) { o.MaxLoaded = 2 })
		a, b, c := testModel(t, "a", 1), testModel(t, "b", 1), testModel(t, "c", 1)
		use(t, r, a, auto, nil)
		time.Sleep(time.Second)
		use(t, r, b, auto, nil)
		wantResident(t, r, "a b")
		use(t, r, c, auto, nil)
		wantResident(t, r, "b c")

		lb, lc := mustAcquire(t, r, b, auto, nil), mustAcquire(t, r, c, auto, nil)
		la := acquireLater(t, r, a, auto)
		synctest.Wait()
		if len(la) != 0 {
			t.Fatal("a busy model had to go")
		}
		lc.release()
		lb.release() // whichever was chosen, it is free now
		(<-la).release()
		if n := len(strings.Fields(residentNames(r))); n != 2 {
			t.Errorf("%d models are resident", n)
		}
	})
}

func TestMemoryDecidesWhatStays(t *testing.T) {
	const gib = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{size: 3 * gib}
		r := startResidency(t, f, func(o *Options) {
			o.memory = func() memory { return memory{total: 8 * gib, available: 8 * gib} }
		})
		a, b, c := testModel(t, "a", 3*gib), testModel(t, "b", 3*gib), testModel(t, "c", 3*gib)
		use(t, r, a, auto, nil)
		time.Sleep(time.Second)
		use(t, r, b, auto, nil)
		wantResident(t, r, "a b")
		use(t, r, c, auto, nil)
		wantResident(t, r, "b c")

		_, err := r.acquire(t.Context(), testModel(t, "huge", 9*gib), auto, nil)
		if want := "model requires more system memory (9.2 GiB) than is available (8.0 GiB)"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		wantResident(t, r, "b c") // nothing went for what can't come
	})
}

func TestKVBudgetIsAShareOfWhatIsFree(t *testing.T) {
	const gib = 1 << 30
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{size: 2 * gib}
		r := startResidency(t, f, func(o *Options) {
			o.memory = func() memory { return memory{total: 12 * gib, available: 11 * gib} }
		})
		use(t, r, testModel(t, "a", 2*gib), auto, nil)
		use(t, r, testModel(t, "b", 2*gib), auto, nil)
		info := r.list()
		if got, want := info[0].budget, int64(9*gib)*80/100; got != want {
			t.Errorf("the first model may hold %d bytes, want %d", got, want)
		}
		// The other has nearly all of what is left promised, but a quarter.
		if got, want := info[1].budget, int64(8*gib)/4*80/100; got != want {
			t.Errorf("the second model may hold %d bytes, want %d", got, want)
		}
	})
}

func TestQueueBoundsTheRequestsThatWaitForALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := &fakeLoader{before: func(context.Context, LoadSpec, func(float32)) error { <-gate; return nil }}
		r := startResidency(t, f, func(o *Options) { o.MaxQueue = 2 })
		m := testModel(t, "m", 1)
		a, b := acquireLater(t, r, m, auto), acquireLater(t, r, m, auto)
		synctest.Wait()
		if _, err := r.acquire(t.Context(), m, auto, nil); !errors.Is(err, scheduler.ErrBusy) {
			t.Errorf("the third got %v", err)
		}
		close(gate)
		(<-a).release()
		(<-b).release()
		for range 5 { // a resident model needs no place in the queue
			use(t, r, m, auto, nil)
		}
	})
}

func TestClientThatLeavesEndsTheLoadItAloneWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := 0
		f := &fakeLoader{before: func(ctx context.Context, _ LoadSpec, _ func(float32)) error {
			select {
			case <-ctx.Done():
				ended++
				return ctx.Err()
			case <-time.After(time.Hour):
				return nil
			}
		}}
		r := startResidency(t, f, func(o *Options) { o.LoadTimeout = 0; o.MaxQueue = 2 })
		m := testModel(t, "m", 1)
		leave := func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := r.acquire(ctx, m, auto, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("acquire: %v", err)
			}
			synctest.Wait()
		}
		for range 3 { // more than the queue has places
			leave()
		}
		if ended != 3 {
			t.Errorf("%d of 3 loads were ended", ended)
		}
		stays := acquireLater(t, r, m, auto)
		synctest.Wait()
		leave() // another one still waits: the load goes on
		(<-stays).release()
		if ended != 3 {
			t.Error("a load ended that a client waited for")
		}
	})
}

func TestClientThatComesWhileALoadIsBeingEndedGetsTheModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{before: func(ctx context.Context, _ LoadSpec, _ func(float32)) error {
			time.Sleep(10 * time.Second)
			if err := ctx.Err(); err != nil {
				return err
			}
			return nil
		}}
		r := startResidency(t, f)
		m := testModel(t, "m", 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.acquire(ctx, m, auto, nil); err == nil {
			t.Error("loaded too soon")
		}
		use(t, r, m, auto, nil)
		if n := len(f.loads()); n != 2 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestStalledLoadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		f := &fakeLoader{}
		f.before = func(_ context.Context, _ LoadSpec, progress func(float32)) error {
			for i := range 10 {
				time.Sleep(50 * time.Second) // slow, but it gets on
				progress(float32(i+1) / 10)
			}
			if calls.Add(1) == 1 {
				time.Sleep(2 * time.Hour) // and does not hear of its end
			}
			return nil
		}
		r := startResidency(t, f, func(o *Options) { o.LoadTimeout = time.Minute })
		m := testModel(t, "m", 1)
		_, err := r.acquire(t.Context(), m, auto, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "timed out waiting for llama runner to start - progress 1.00 - ") {
			t.Errorf("stalled load: %v", err)
		}
		use(t, r, m, auto, lasting(forever)) // others may load although the first has not returned
		time.Sleep(3 * time.Hour)
		wantResident(t, r, "m")
		if n := f.freed(); n != 1 {
			t.Errorf("%d late models were freed", n)
		}
	})
}

func TestFailedLoadIsToldToAllThatWaitAndTriedAgainForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("tensor 'blk.0' is missing")
		f := &fakeLoader{}
		f.before = func(context.Context, LoadSpec, func(float32)) error {
			time.Sleep(time.Second)
			return broken
		}
		r := startResidency(t, f)
		m := testModel(t, "m", 1)
		errs := make(chan error)
		for range 3 {
			go func() {
				_, err := r.acquire(t.Context(), m, auto, nil)
				errs <- err
			}()
		}
		for range 3 {
			if err := <-errs; !errors.Is(err, broken) {
				t.Errorf("acquire: %v", err)
			}
		}
		broken = nil
		use(t, r, m, auto, nil)
		if n := len(f.loads()); n != 2 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestPanicOfTheLoaderEndsOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		f.before = func(context.Context, LoadSpec, func(float32)) error { panic("a bug") }
		r := startResidency(t, f)
		m := testModel(t, "m", 1)
		if _, err := r.acquire(t.Context(), m, auto, nil); !errors.Is(err, errInternal) {
			t.Errorf("acquire: %v", err)
		}
		f.before = nil
		use(t, r, m, auto, nil)
	})
}

func TestModelOfAFailedEngineIsLoadedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{}
		f.engine.BeforeDecode = func([]llm.Row) error { return fmt.Errorf("%w: out of device memory", llm.ErrFatal) }
		r := startResidency(t, f)
		m := testModel(t, "m", 1)
		l := mustAcquire(t, r, m, auto, lasting(time.Minute))
		if err := answerOf(t, l); !errors.Is(err, llm.ErrFatal) {
			t.Errorf("the answer ended with %v", err)
		}
		wantResident(t, r, "")
		if n := f.freed(); n != 0 {
			t.Error("the vocabulary was freed under a lease")
		}
		f.engine = llmtest.Options{}
		again := mustAcquire(t, r, m, auto, nil)
		if err := answerOf(t, again); err != nil {
			t.Errorf("the next request: %v", err)
		}
		l.release()
		synctest.Wait()
		if n := f.freed(); n != 1 {
			t.Errorf("%d failed models were freed", n)
		}
		again.release()
		time.Sleep(time.Minute) // the first one's timer is not the second's
		wantResident(t, r, "m")
	})
}

// answerOf asks the model for a few tokens and returns how the answer ended.
func answerOf(t *testing.T, l *lease) error {
	t.Helper()
	s, err := l.sched.Submit(t.Context(), scheduler.Request{
		Prompt: l.vocab.Tokenize("hello", true), MaxTokens: 5, Sampling: llm.SamplingParams{RepeatPenalty: 1, TopP: 1, TypicalP: 1},
	})
	if err != nil {
		return err
	}
	for {
		if e, ok := s.Next(); !ok || e.Done != nil {
			return e.Done.Err
		}
	}
}

func TestStopAnswersAllAndFreesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLoader{before: func(ctx context.Context, spec LoadSpec, _ func(float32)) error {
			if spec.GPU == 7 {
				<-ctx.Done()
			}
			return ctx.Err()
		}}
		f.engine.BeforeDecode = func([]llm.Row) error {
			time.Sleep(time.Millisecond)
			return nil
		}
		r := startResidency(t, f)
		idle, busy, loading := testModel(t, "idle", 1), testModel(t, "busy", 1), testModel(t, "loading", 1)
		use(t, r, idle, auto, nil)
		l := mustAcquire(t, r, busy, auto, nil)
		s, err := l.sched.Submit(t.Context(), scheduler.Request{Prompt: []llm.Token{1}, Shift: true})
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := r.acquire(t.Context(), loading, runnerOptions{NumGPU: 7}, nil)
			waiting <- err
		}()
		synctest.Wait()
		r.stop()
		if err := <-waiting; !errors.Is(err, errStopping) {
			t.Errorf("a request that waited got %v", err)
		}
		for {
			e, ok := s.Next()
			if !ok {
				t.Fatal("an answer without an end")
			}
			if e.Done != nil {
				if !errors.Is(e.Done.Err, scheduler.ErrClosed) {
					t.Errorf("an answer in progress ended with %v", e.Done.Err)
				}
				break
			}
		}
		select {
		case <-r.done:
			t.Error("all is freed although a lease is held")
		default:
		}
		l.release()
		<-r.done
		if _, err := r.acquire(t.Context(), idle, auto, nil); !errors.Is(err, errStopping) {
			t.Errorf("a late request got %v", err)
		}
		r.unload(idle)
		l.release()
		if len(r.list()) != 0 {
			t.Error("models are listed after the end")
		}
	})
}

func TestModelsThatCantRunAreRefusedBeforeTheLoad(t *testing.T) {
	f := &fakeLoader{}
	r := startResidency(t, f)
	remote, projector, gone := testModel(t, "a", 1), testModel(t, "b", 1), testModel(t, "c", 1)
	remote.Config.RemoteHost = "https://ollama.com:443"
	projector.ProjectorPaths = []string{projector.ModelPath}
	gone.ModelPath += "-deleted"
	none := &modelstore.Model{Name: gone.Name}
	for _, tt := range []struct {
		model  *modelstore.Model
		status int
		text   string
	}{
		{remote, http.StatusBadRequest, "model 'a:latest' runs on another host, https://ollama.com:443; this server runs models of its own folder only"},
		{projector, http.StatusBadRequest, "model 'b:latest' has a projector for images, which this server can't run yet; use a model without one"},
		{none, http.StatusBadRequest, "model 'c:latest' has no GGUF weights and can't be run; create it from a GGUF file"},
		{gone, http.StatusInternalServerError, "model 'c:latest' is incomplete, its file weights-deleted is missing: pull or create the model again"},
	} {
		_, err := r.acquire(t.Context(), tt.model, auto, nil)
		if status, text := answer(err); status != tt.status || text != tt.text {
			t.Errorf("%d %s\nwant %d %s", status, text, tt.status, tt.text)
		}
	}
	if n := len(f.loads()); n != 0 {
		t.Errorf("%d loads", n)
	}
}
