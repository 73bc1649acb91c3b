package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// Four slots, the first and the third active, and pace for 250 tokens in a slice.
func TestAPromptGetsTheSlotWhereItDisturbsLeast(t *testing.T) {
	tokens := func(text string, n int) []llm.Token {
		return llmtest.Vocab{}.Tokenize(strings.Repeat(text, n/len(text)+1)[:n], false)
	}
	chat, other := tokens("a chat ", 1000), tokens("something else ", 1000)
	const gap, end = 1, 3
	for name, c := range map[string]struct {
		prompt       []llm.Token
		inGap, atEnd []llm.Token // caches
		want         int
	}{
		"a short one fills the gap":                                 {chat[:100], nil, nil, gap},
		"a short one, though the end holds it":                      {chat[:100], nil, chat[:90], gap},
		"a long one extends the row":                                {chat, nil, nil, end},
		"a long one, though the gap holds some":                     {chat, chat[:500], nil, end},
		"a long one of which the gap holds nearly all":              {chat, chat[:900], nil, gap},
		"a long one of which the end holds nearly all":              {chat, nil, chat[:900], end},
		"a long one of which both hold nearly all":                  {chat, chat[:800], chat[:900], gap},
		"a long one of which the gap holds less than what is short": {chat, other[:900], chat[:10], end},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Scheduler{slots: make([]slot, 4), limits: llm.Limits{Sequences: 4, Context: 4096}}
			s.pace.prefilled(1000, 0, time.Second, true)
			s.slots[0].seq, s.slots[2].seq = &sequence{}, &sequence{}
			for i, cached := range map[int][]llm.Token{gap: c.inGap, end: c.atEnd} {
				s.slots[i].cached, s.slots[i].exact = cached, len(cached)
			}
			if got := s.choose(c.prompt); got != &s.slots[c.want] {
				t.Errorf("it is not slot %d", c.want)
			}
		})
	}
}

// Chats are in the slots that new requests have to take, next to the one that was unused
// for the longest time. They are saved to slots farther away, but not so many in one step
// that an answer stands still.
func TestChatsAreSavedFewAtATime(t *testing.T) {
	const slots, length, others = 24, 700, 8
	s, err := New(llmtest.NewEngine(llmtest.Options{Limits: llm.Limits{Sequences: slots, Context: 4096}}), llmtest.Vocab{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	step := func() (copied int) {
		worked, err := s.step()
		if err != nil || !worked {
			t.Fatalf("a step did nothing: %v", err)
		}
		return s.copied
	}
	submit := func(p string) {
		if _, err := s.Submit(t.Context(), greedy(p, 20)); err != nil {
			t.Fatal(err)
		}
	}
	serve := func(slot int, p string) {
		submit(p)
		s.receive()
		q := s.waiting[0]
		s.waiting = s.waiting[:0]
		for s.place(q, &s.slots[slot]); !s.Idle(); {
			step()
		}
	}
	serve(1, "the oldest")
	for i := 10; i < slots; i++ {
		serve(i, fmt.Sprint(i, " is older than the chats"))
	}
	for _, i := range []int{0, 2, 3, 4, 5, 6, 7, 8, 9} {
		serve(i, fmt.Sprintf("chat %d%s", i, strings.Repeat("?", length)))
	}
	for i := range others {
		submit(fmt.Sprint(i, " is somebody else's question"))
	}
	most, saved := 0, 0
	for !s.Idle() {
		n := step()
		most, saved = max(most, n), saved+n
	}
	if saved < (others-1)*length {
		t.Errorf("%d tokens were saved, want those of %d chats", saved, others-1)
	}
	if bound := mostCopied + length + 100; most > bound {
		t.Errorf("%d tokens were copied in one step, want at most %d", most, bound)
	}
}
