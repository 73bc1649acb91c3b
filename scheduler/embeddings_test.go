package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// embedRun is Embeddings over a fake that is checked when the test ends.
type embedRun struct {
	*Embeddings
	fakes []*llmtest.Embedder
	err   error         // of Run
	over  chan struct{} // closed when err is set
}

func (r *embedRun) run() {
	defer close(r.over)
	r.err = r.Run()
}

// startEmbeddings must be called in a synctest bubble.
func startEmbeddings(t *testing.T, fo llmtest.EmbedOptions, o EmbeddingsOptions) *embedRun {
	t.Helper()
	if o.Queue == nil {
		o.Queue = NewQueue(512)
	}
	r := &embedRun{over: make(chan struct{})}
	r.Embeddings = NewEmbeddings(func() (llm.Embedder, error) {
		r.fakes = append(r.fakes, llmtest.NewEmbedder(fo))
		return r.fakes[len(r.fakes)-1], nil
	}, o)
	go r.run()
	t.Cleanup(func() {
		r.Close()
		for _, f := range r.fakes {
			if !f.Closed() {
				t.Error("the embedder was not closed")
			}
			for _, v := range f.Violations() {
				t.Error(v)
			}
		}
		if n, s := o.Queue.Waiting(), r.Stats(); n != 0 || s.Active != 0 || s.Waiting != 0 || r.inflight.Load() != 0 {
			t.Errorf("left behind: %d places in the queue, %+v", n, s)
		}
	})
	return r
}

// texts are n texts of the given length, none like another.
func texts(number, n, length int) [][]llm.Token {
	all := make([][]llm.Token, n)
	for i := range all {
		all[i] = make([]llm.Token, length)
		for j := range all[i] {
			all[i][j] = llm.Token((number*7919 + i*131 + j) % llmtest.VocabSize)
		}
	}
	return all
}

// wantVectors compares with what the model gives.
func wantVectors(t *testing.T, texts [][]llm.Token, vectors [][]float32, err error) {
	t.Helper()
	if err != nil || len(vectors) != len(texts) {
		t.Errorf("%d texts: %d vectors, %v", len(texts), len(vectors), err)
		return
	}
	for i, v := range vectors {
		if !slices.Equal(v, llmtest.Vector(texts[i], len(v))) || len(v) == 0 {
			t.Errorf("text %d of %d has a wrong vector: %v", i, len(texts), v)
		}
	}
}

// slow lets each call take a while of the bubble's time.
func slow(parts []llm.EmbedPart) error {
	for _, p := range parts {
		time.Sleep(time.Duration(len(p.Tokens)) * time.Millisecond)
	}
	return nil
}

func TestTextsOfAllRequestsShareCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		first := sync.OnceFunc(func() { <-hold })
		r := startEmbeddings(t, llmtest.EmbedOptions{BeforeEmbed: func([]llm.EmbedPart) error { first(); return nil }}, EmbeddingsOptions{})
		var clients sync.WaitGroup
		for i := range 13 {
			clients.Go(func() {
				want := texts(i, 5, 2)
				got, err := r.Embed(t.Context(), want)
				wantVectors(t, want, got, err)
			})
			if i == 0 {
				synctest.Wait() // in its call
			}
		}
		synctest.Wait()
		close(hold)
		clients.Wait()
		if got := r.fakes[0].Calls(); !slices.Equal(got, []int{5, 60}) {
			t.Errorf("calls of %v texts, want 5, and 60 of the 12 that waited", got)
		}
		if s := r.Stats(); s.Texts != 65 || s.Tokens != 130 || s.FinishedOK != 13 || s.Calls != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAHugeRequestKeepsNobodyWaiting(t *testing.T) {
	for name, whole := range map[string]bool{"whole": true, "in parts": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startEmbeddings(t, llmtest.EmbedOptions{Limits: llm.EmbedLimits{Whole: whole}, BeforeEmbed: slow}, EmbeddingsOptions{})
				var clients sync.WaitGroup
				clients.Go(func() {
					want := texts(1, 5000, 50)
					got, err := r.Embed(t.Context(), want)
					wantVectors(t, want, got, err)
				})
				clients.Go(func() {
					want := texts(3, 3, 4000)
					got, err := r.Embed(t.Context(), want)
					wantVectors(t, want, got, err)
				})
				time.Sleep(20 * time.Second) // 250 s of work, and 12 s
				began := time.Now()
				want := texts(2, 2, 20)
				got, err := r.Embed(t.Context(), want)
				wantVectors(t, want, got, err)
				most := 3 * embedSlice // the call in progress, and one for each text
				if whole {
					most += 4 * time.Second // no text can be cut
				}
				if took := time.Since(began); took > most {
					t.Errorf("two small texts took %s", took)
				}
				clients.Wait()
			})
		})
	}
}

func TestLongTextsEndHoweverManyShortOnesCome(t *testing.T) {
	for name, whole := range map[string]bool{"whole": true, "in parts": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startEmbeddings(t, llmtest.EmbedOptions{Limits: llm.EmbedLimits{Whole: whole}, BeforeEmbed: slow}, EmbeddingsOptions{})
				ctx, stop := context.WithCancel(t.Context())
				var clients sync.WaitGroup
				for i := range 20 {
					clients.Go(func() {
						for ctx.Err() == nil {
							want := texts(i, 10, 30)
							got, err := r.Embed(context.WithoutCancel(ctx), want)
							wantVectors(t, want, got, err)
						}
					})
				}
				var long sync.WaitGroup
				for i := range 3 {
					long.Go(func() {
						want := texts(100+i, 2, 3000)
						got, err := r.Embed(t.Context(), want)
						wantVectors(t, want, got, err)
					})
				}
				began := time.Now()
				long.Wait()
				// 18 s of work, to which the others leave half and more.
				if took := time.Since(began); took > 40*time.Second {
					t.Errorf("six long texts took %s", took)
				}
				stop()
				clients.Wait()
			})
		})
	}
}

func TestTheQueueBoundsTheRequestsWithoutATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		queue := NewQueue(2)
		r := startEmbeddings(t, llmtest.EmbedOptions{BeforeEmbed: func([]llm.EmbedPart) error { <-hold; return nil }}, EmbeddingsOptions{Queue: queue, Slots: 3})
		var clients sync.WaitGroup
		for i := range 5 {
			clients.Go(func() {
				want := texts(i, 1, 4)
				got, err := r.Embed(t.Context(), want)
				wantVectors(t, want, got, err)
			})
		}
		synctest.Wait()
		if queue.Waiting() != 2 {
			t.Errorf("%d wait", queue.Waiting())
		}
		if _, err := r.Embed(t.Context(), texts(9, 1, 4)); !errors.Is(err, ErrBusy) {
			t.Errorf("the sixth: %v", err)
		}
		close(hold)
		clients.Wait()
		if _, err := r.Embed(t.Context(), texts(9, 1, 4)); err != nil {
			t.Error(err)
		}
	})
}

func TestAClientThatLeavesCostsNoFurtherCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startEmbeddings(t, llmtest.EmbedOptions{BeforeEmbed: slow}, EmbeddingsOptions{Slots: 1})
		leave := func(texts [][]llm.Token) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			began := time.Now()
			if _, err := r.Embed(ctx, texts); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Embed: %v", err)
			}
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("it left after %s", took)
			}
		}
		var clients sync.WaitGroup
		clients.Go(func() { leave(texts(1, 1, 4000)) }) // in the middle of a long text
		clients.Go(func() { leave(texts(2, 900, 10)) }) // waiting or in its turns
		clients.Wait()
		time.Sleep(embedSlice * 2)
		after := r.Stats().Calls
		time.Sleep(time.Minute)
		if n := r.Stats().Calls - after; n != 0 {
			t.Errorf("%d calls for nobody", n)
		}
		want := texts(3, 2, 300)
		got, err := r.Embed(t.Context(), want)
		wantVectors(t, want, got, err)
		if s := r.Stats(); s.CancelledByUser != 2 || s.FinishedOK != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCloseEndsEveryRequestAndTheCallInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *embedRun
		r = startEmbeddings(t, llmtest.EmbedOptions{BeforeEmbed: func(p []llm.EmbedPart) error {
			<-r.stop // until it is aborted
			return nil
		}}, EmbeddingsOptions{Slots: 2})
		errs := make(chan error)
		for i := range 6 {
			go func() {
				_, err := r.Embed(t.Context(), texts(i, 3, 1000))
				errs <- err
			}()
		}
		synctest.Wait()
		r.Close()
		for range 6 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("Embed: %v", err)
			}
		}
		if _, err := r.Embed(t.Context(), texts(1, 1, 1)); !errors.Is(err, ErrClosed) {
			t.Errorf("a late one: %v", err)
		}
		r.Close()
		<-r.over
		if r.err != nil || r.Failed() != nil {
			t.Errorf("Run: %v, failed %v", r.err, r.Failed())
		}
	})
}

func TestAnUnusedEmbedderIsNeverOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startEmbeddings(t, llmtest.EmbedOptions{}, EmbeddingsOptions{})
		synctest.Wait()
		if len(r.fakes) != 0 || r.Stats().Bytes != 0 {
			t.Error("it was opened")
		}
		l, err := r.Limits(t.Context())
		if err != nil || l.Context != 4096 || len(r.fakes) != 1 {
			t.Errorf("%+v, %v, %d were opened", l, err, len(r.fakes))
		}
		if got, err := r.Embed(t.Context(), nil); err != nil || len(got) != 0 {
			t.Errorf("nothing: %v, %v", got, err)
		}
		if len(r.fakes) != 1 || len(r.fakes[0].Calls()) != 0 {
			t.Error("questions cost calls")
		}
	})
}

func TestAnEmbedderThatCantBeOpenedIsTriedAgainForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no memory")
		fake := llmtest.NewEmbedder(llmtest.EmbedOptions{})
		e := NewEmbeddings(func() (llm.Embedder, error) {
			if broken != nil {
				return nil, broken
			}
			return fake, nil
		}, EmbeddingsOptions{})
		go e.Run()
		defer e.Close()
		if _, err := e.Embed(t.Context(), texts(1, 1, 1)); !errors.Is(err, broken) {
			t.Errorf("Embed: %v", err)
		}
		if _, err := e.Limits(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Limits: %v", err)
		}
		broken = nil
		want := texts(1, 1, 1)
		got, err := e.Embed(t.Context(), want)
		wantVectors(t, want, got, err)
	})
}

func TestTextsThatCantBeEmbeddedAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startEmbeddings(t, llmtest.EmbedOptions{Limits: llm.EmbedLimits{Context: 100}}, EmbeddingsOptions{})
		if _, err := r.Embed(t.Context(), texts(1, 2, 101)); !errors.Is(err, ErrPromptTooLong) {
			t.Errorf("too long: %v", err)
		}
		if _, err := r.Embed(t.Context(), append(texts(1, 2, 100), nil)); !errors.Is(err, ErrEmptyPrompt) {
			t.Errorf("empty: %v", err)
		}
		want := texts(1, 2, 100)
		got, err := r.Embed(t.Context(), want)
		wantVectors(t, want, got, err)
	})
}

func TestAFailedCallEndsWhomItConcerns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := llm.Token(llmtest.VocabSize)
		fake := llmtest.NewEmbedder(llmtest.EmbedOptions{})
		r := NewEmbeddings(func() (llm.Embedder, error) { return fake, nil }, EmbeddingsOptions{})
		go r.Run()
		if _, err := r.Embed(t.Context(), [][]llm.Token{{1, bad}}); !errors.Is(err, llm.ErrInvalidBatch) {
			t.Errorf("a token that is none: %v", err)
		}
		want := texts(1, 2, 5)
		got, err := r.Embed(t.Context(), want)
		wantVectors(t, want, got, err)
		r.Close()
		if len(fake.Violations()) != 1 {
			t.Errorf("violations: %v", fake.Violations())
		}
	})
}

func TestALostEmbedderEndsAllRequests(t *testing.T) {
	for name, failure := range map[string]func([]llm.EmbedPart) error{
		"an error": func([]llm.EmbedPart) error { return fmt.Errorf("%w: out of device memory", llm.ErrFatal) },
		"a panic":  func([]llm.EmbedPart) error { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startEmbeddings(t, llmtest.EmbedOptions{BeforeEmbed: func(p []llm.EmbedPart) error {
					time.Sleep(time.Second)
					return failure(p)
				}}, EmbeddingsOptions{Slots: 1})
				var clients sync.WaitGroup
				for i := range 3 {
					clients.Go(func() {
						if _, err := r.Embed(t.Context(), texts(i, 1, 1)); err == nil || errors.Is(err, ErrClosed) {
							t.Errorf("Embed: %v", err)
						}
					})
				}
				clients.Wait()
				<-r.over
				if r.Failed() == nil || r.err == nil {
					t.Error("Run has not failed")
				}
			})
		})
	}
}

// TestEmbeddingsSimulation lets random clients come and leave. Each that stays gets
// the model's vectors.
func TestEmbeddingsSimulation(t *testing.T) {
	for seed := range 10 {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 1))
				limits := llm.EmbedLimits{Sequences: 1 + rng.IntN(12), Context: 400, Batch: 40 + rng.IntN(100), Whole: seed%2 == 0}
				r := startEmbeddings(t, llmtest.EmbedOptions{Limits: limits, BeforeEmbed: slow}, EmbeddingsOptions{Queue: NewQueue(30), Slots: 1 + rng.IntN(20)})
				var clients sync.WaitGroup
				for i := range 120 {
					dice := rand.New(rand.NewPCG(uint64(seed), uint64(i+2)))
					clients.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(200+dice.IntN(60_000))*time.Millisecond)
						defer cancel()
						want := texts(i, 1+dice.IntN(12), 1+dice.IntN(40))
						if dice.IntN(5) == 0 {
							want = append(want, texts(i+1000, 1, 400)...)
						}
						switch got, err := r.Embed(ctx, want); {
						case errors.Is(err, ErrBusy):
						case err != nil && ctx.Err() != nil:
						default:
							wantVectors(t, want, got, err)
						}
					})
					time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
				}
				clients.Wait()
				if s := r.Stats(); s.FinishedOK < 20 {
					t.Errorf("too few were served: %+v", s)
				}
			})
		})
	}
}
