package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"cllm/llm"
)

// slotsOf reads "cached/total", one word a slot, "-" for an idle one. Slots are
// as old as their place, unless "#n" says otherwise.
func slotsOf(t *testing.T, text string) []slot {
	t.Helper()
	var slots []slot
	for i, word := range strings.Fields(text) {
		sl := slot{id: llm.SeqID(i)}
		if word != "-" {
			var cached, total int
			order := i
			word, age, aged := strings.Cut(word, "#")
			if aged {
				fmt.Sscan(age, &order)
			}
			if _, err := fmt.Sscanf(word, "%d/%d", &cached, &total); err != nil {
				t.Fatalf("slot %q: %v", word, err)
			}
			sl.seq = &sequence{tokens: make([]llm.Token, total), order: int64(order)}
			sl.cached = sl.seq.tokens[:cached]
		}
		slots = append(slots, sl)
	}
	return slots
}

// textOf writes spans as "slot:rows", with a star where logits are wanted.
func textOf(spans []span) string {
	var words []string
	for _, sp := range spans {
		w := fmt.Sprintf("%d:%d", sp.slot, sp.n)
		if sp.logits {
			w += "*"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func TestPlan(t *testing.T) {
	split := policy{batch: 512, prefill: 64, alone: 200}
	due := policy{batch: 512, prefill: 0, alone: 200}
	unified := policy{batch: 512, prefill: 64, alone: 200, unified: true}
	small := policy{batch: 64, prefill: 64, alone: 64}
	fresh := policy{batch: 512, prefill: 64, alone: 200, slice: 64}
	begun := policy{batch: 512, prefill: 22, alone: 200, slice: 64}
	tests := []struct {
		promise string
		slots   string
		policy  policy
		want    string
		passes  int
	}{
		{"nothing to do", "- - -", split, "", 0},
		{"decode rows are one pass", "7/8 20/21 3/4", split, "0:1* 1:1* 2:1*", 1},
		{"a hole costs a pass", "7/8 - 3/4", split, "0:1* 2:1*", 2},
		{"a one-token prompt decodes at once", "0/1", split, "0:1*", 1},
		{"a prompt leaves its last token for a decode step", "0/40", split, "0:39", 1},
		{"a step either decodes or prefills", "7/8 0/40", split, "1:39", 1},
		{"decode rows have their turn when they are due", "7/8 0/40 3/4", due, "0:1* 2:1*", 2},
		{"a long prompt is cut to the slice", "7/8 0/4000", split, "1:64", 1},
		{"nobody decodes: a longer slice", "0/4000", split, "0:200", 1},
		{"a rest too small for its own pass is taken along", "7/8 0/76", split, "1:75", 1},
		{"a rest that can't be taken along is left worth a pass", "0/76", small, "0:59", 1},
		{"the oldest prompt goes first", "0/300#9 7/8 0/300#4", split, "2:64", 1},
		{"a half done prompt keeps its turn", "7/8 0/300#9 64/300#4", split, "2:64", 1},
		{"equal neighbours share a pass", "0/41 0/41 0/41 0/41 0/41 0/41", split, "0:40 1:40 2:40 3:40 4:40", 1},
		{"neighbours are cut to the oldest's length", "0/41 0/90 0/41", split, "0:40 1:40 2:40", 1},
		{"a neighbour is not cut to a stump", "0/41 0/50 0/41", split, "0:40", 1},
		{"neighbours below join too", "0/41#5 0/41#4", split, "0:40 1:40", 1},
		{"what fits into a slice exceeds this one a little", "7/8 0/43", begun, "1:42", 1},
		{"or waits for the next one", "7/8 0/61", begun, "0:1*", 1},
		{"what fits into no slice fills this one up", "7/8 0/400", begun, "1:22", 1},
		{"neighbours exceed it a little together", "7/8 0/43 0/43 0/43", fresh, "1:42 2:42", 1},
		{"chunks of long prompts do not", "7/8 0/400 0/400", begun, "1:22", 1},
		{"what fits into no batch is cut", "7/8 0/101", policy{batch: 64, prefill: 64, alone: 64, slice: 250}, "1:64", 1},
		{"unified: decode rows first, prompts fill up", "7/8 0/300#2 3/4 0/300#1", unified, "0:1* 2:1* 3:64", 1},
		{"unified: the next prompt gets the rest", "7/8 0/40 0/300", unified, "0:1* 1:39 2:25", 1},
		{"unified: decode rows only when they are due", "7/8 0/40", policy{batch: 512, unified: true}, "0:1*", 1},
		{"unified: never more rows than the batch", "7/8 0/90", policy{batch: 32, prefill: 64, alone: 64, unified: true}, "0:1* 1:31", 1},
	}
	for _, tt := range tests {
		t.Run(tt.promise, func(t *testing.T) {
			slots := slotsOf(t, tt.slots)
			got := plan(slots, tt.policy, nil)
			if textOf(got) != tt.want {
				t.Errorf("plan(%q) = %q, want %q", tt.slots, textOf(got), tt.want)
			}
			if n := passes(got, tt.policy.unified); n != tt.passes {
				t.Errorf("%d passes, want %d", n, tt.passes)
			}
			rows := rowsOf(slots, got, nil)
			if len(rows) > tt.policy.batch {
				t.Errorf("%d rows in a batch of %d", len(rows), tt.policy.batch)
			}
		})
	}
}

func TestChunkNeverExceedsTheBatchAndAlwaysAdvances(t *testing.T) {
	for n := 1; n < 200; n++ {
		for room := 1; room < 100; room++ {
			for _, batch := range []int{room, room + 5, room + 100} {
				got := chunk(n, room, batch)
				if got < 1 || got > n || got > batch {
					t.Fatalf("chunk(%d, %d, %d) = %d", n, room, batch, got)
				}
			}
		}
	}
}
