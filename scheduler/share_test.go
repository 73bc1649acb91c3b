package scheduler

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// Whoever comes at the same time and begins alike has the beginning computed once.
func TestPromptsThatBeginAlikeAreComputedOnce(t *testing.T) {
	const clients, answer = 32, 10
	system := strings.Repeat("you are a helpful assistant. ", 20)
	for _, unified := range []bool{false, true} {
		t.Run(fmt.Sprintf("unified=%v", unified), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, llmtest.Options{
					Limits:       llm.Limits{Unified: unified},
					BeforeDecode: func(rows []llm.Row) error { time.Sleep(time.Duration(len(rows)) * time.Millisecond); return nil },
				}, Options{})
				var streams []*Stream
				prompts := make([]string, clients)
				for i := range clients {
					prompts[i] = fmt.Sprintf("%sclient %02d asks", system, i)
					streams = append(streams, r.submit(t, t.Context(), greedy(prompts[i], answer)))
				}
				cached := 0
				for i, st := range streams {
					text, done := read(st)
					if done.Err != nil || text != llmtest.GreedyText(prompts[i], answer) {
						t.Errorf("client %d: %q, %v", i, text, done.Err)
					}
					if done.CachedTokens >= len(system) {
						cached++
					}
				}
				if cached != clients-1 {
					t.Errorf("%d of %d prompts were spared the beginning, want all but the first", cached, clients)
				}
				own := int64(len(prompts[0]) - len(system))
				if n, most := r.Stats().PrefillTokens, int64(len(system))+clients*own; n > most {
					t.Errorf("%d tokens were computed, want at most %d", n, most)
				}
			})
		})
	}
}

// A prompt that waits for the beginning of another one is not lost with it.
func TestAPromptGetsOnWhenTheOneItWaitsForIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system := strings.Repeat("a long beginning ", 100)
		ctx, leave := context.WithCancel(t.Context())
		r := start(t, llmtest.Options{BeforeDecode: func(rows []llm.Row) error {
			time.Sleep(time.Duration(len(rows)) * time.Millisecond)
			return nil
		}}, Options{})
		gone := r.submit(t, ctx, greedy(system+"the first", 5))
		stays := r.submit(t, t.Context(), greedy(system+"the second", 5))
		time.Sleep(500 * time.Millisecond) // in the middle of the first prompt
		leave()
		if _, done := read(gone); done.Err == nil {
			t.Error("the first prompt was not given up")
		}
		text, done := read(stays)
		if done.Err != nil || text != llmtest.GreedyText(system+"the second", 5) {
			t.Errorf("%q, %v", text, done.Err)
		}
		if n := done.CachedTokens; n == 0 || n >= len(system) {
			t.Errorf("%d tokens came from the prompt that was given up, which had a part of %d", n, len(system))
		}
	})
}

// A prompt waits for the same one. Before that is computed, an answer needs the room, and
// the waiting one is sent back. Then it gets a slot that holds all of it.
func TestAPromptThatWaitedAndWasSentBackGetsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("a long prompt ", 120)
		budget := len("short") + 2*len(long) + 3*headroom
		r := start(t, llmtest.Options{
			Limits: llm.Limits{Sequences: 4, Context: 4096},
			BeforeDecode: func(rows []llm.Row) error {
				if !rows[0].Logits {
					time.Sleep(time.Duration(len(rows)) * 20 * time.Millisecond)
				}
				return nil
			},
		}, Options{MemoryBudget: int64(budget)})
		grows := r.submit(t, t.Context(), greedy("short", 120))
		first := r.submit(t, t.Context(), greedy(long, 5))
		second := r.submit(t, t.Context(), greedy(long, 50))
		for _, c := range []struct {
			st   *Stream
			p    string
			most int
		}{{grows, "short", 120}, {first, long, 5}, {second, long, 50}} {
			if text, done := read(c.st); done.Err != nil || text != llmtest.GreedyText(c.p, c.most) {
				t.Errorf("%q, %v", text, done.Err)
			}
		}
		if st := r.Stats(); st.Preempted == 0 {
			t.Error("nobody was sent back: the test tests nothing")
		}
	})
}

// A memory that copies only the whole can't share a beginning: nobody waits for one.
func TestWhereNothingCanBeSharedEveryPromptIsComputed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{NoTruncate: true}, Options{})
		system := strings.Repeat("a beginning ", 20)
		var streams []*Stream
		for i := range 8 {
			streams = append(streams, r.submit(t, t.Context(), greedy(fmt.Sprint(system, i), 5)))
		}
		for i, st := range streams {
			if text, done := read(st); done.Err != nil || text != llmtest.GreedyText(fmt.Sprint(system, i), 5) {
				t.Errorf("client %d: %q, %v", i, text, done.Err)
			}
		}
	})
}

// Users of a chat come back after others were served. Active slots stand in a row at one
// end, so the others' requests take the very slots that hold the chats.
func TestChatsAreRememberedWhileOthersAreServed(t *testing.T) {
	for _, users := range []int{3, 8, 20} {
		t.Run(fmt.Sprintf("users=%d", users), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, llmtest.Options{Limits: llm.Limits{Sequences: 32, Context: 4096}}, Options{})
				chats := make([]string, users)
				for i := range chats {
					chats[i] = fmt.Sprintf("user %d begins a chat of some length, as they do. ", i)
				}
				for turn := range 4 {
					var streams []*Stream
					for i := range chats {
						chats[i] += fmt.Sprintf("and here is question %d ", turn)
						streams = append(streams, r.submit(t, t.Context(), greedy(chats[i], 20)))
						if i%3 == 2 { // not all at once
							synctest.Wait()
						}
					}
					for i, st := range streams {
						text, done := read(st)
						if want := len(chats[i]) - len("and here is question 0 ") - 1; turn > 0 && done.CachedTokens < want {
							t.Errorf("turn %d of user %d: %d tokens were remembered, want %d", turn, i, done.CachedTokens, want)
						}
						chats[i] += text
					}
					// Others, who have nothing in common with them.
					for other := range 4 {
						read(r.submit(t, t.Context(), greedy(fmt.Sprint(turn, other, " is somebody else's question altogether"), 5)))
					}
				}
			})
		})
	}
}
