package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
	"cllm/scheduler"
)

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

func TestAModelThatIsDeletedWhileARequestWaitsForItIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := testModel(t, "first", 1), testModel(t, "second", 1)
		gate := make(chan struct{})
		f := &fakeLoader{before: func(_ context.Context, spec LoadSpec, _ func(float32)) error {
			if spec.ModelPath == first.ModelPath {
				<-gate
			}
			_, err := os.Stat(spec.ModelPath)
			return err
		}}
		r := startResidency(t, f)
		a := acquireLater(t, r, first, auto)
		synctest.Wait()
		got := make(chan error)
		go func() {
			_, err := r.acquire(t.Context(), second, auto, nil)
			got <- err
		}()
		synctest.Wait()
		if err := os.Remove(second.ModelPath); err != nil {
			t.Fatal(err)
		}
		close(gate)
		(<-a).release()
		if status, text := answer(<-got); status != 404 || text != "model 'second:latest' not found" {
			t.Errorf("%d %s", status, text)
		}
		use(t, r, first, auto, nil)
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
		{remote, http.StatusForbidden, "ollama cloud is disabled: remote model is unavailable"},
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
