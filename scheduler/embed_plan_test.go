package scheduler

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"cllm/llm"
)

// wish makes requests of texts: "a5,3 b100" is request a with texts of 5 and 3 tokens,
// b with one of 100.
func wish(text string) (requests []*embedding) {
	for _, word := range strings.Fields(text) {
		r := &embedding{}
		for _, n := range strings.Split(word[1:], ",") {
			tokens, _ := strconv.Atoi(n)
			r.texts = append(r.texts, make([]llm.Token, tokens))
		}
		requests = append(requests, r)
	}
	return requests
}

// described is the spans as text: request, index of the text, the tokens, and @sequence;
// a span that ends no text has a + behind it.
func described(requests []*embedding, spans []textSpan) string {
	names := make(map[*embedding]string)
	for i, r := range requests {
		names[r] = string(rune('a' + i))
	}
	var words []string
	for _, s := range spans {
		w := fmt.Sprintf("%s%d:%d-%d@%d", names[s.of], s.text, s.from, s.to, s.seq)
		if !s.last() {
			w += "+"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func TestDealTakesTextsOfAllRequestsInTurn(t *testing.T) {
	for _, tt := range []struct {
		promise  string
		requests string
		long     string // "b0:7@2": text 0 of b, 7 tokens of which are computed
		whole    bool
		seqs     int
		tokens   int
		want     string
	}{
		{"nothing to do", "", "", false, 8, 10, ""},
		{"all that fits", "a5,3 b2", "", false, 8, 10, "a0:0-5@0 b0:0-2@1 a1:0-3@2"},
		{"a large request leaves room for a small one", "a4,4,4,4,4,4 b4", "", true, 8, 10, "a0:0-4@0 b0:0-4@1"},
		{"the rest begins the next text", "a4,4,4 b4", "", false, 8, 10, "a0:0-4@0 b0:0-4@1 a1:0-2@2+"},
		{"sequences bound it too", "a1,1,1 b1", "", false, 3, 10, "a0:0-1@0 b0:0-1@1 a1:0-1@2"},
		{"one sequence", "a3,3 b3", "", false, 1, 10, "a0:0-3@0"},

		{"a long text begins", "a30", "", false, 8, 10, "a0:0-10@0+"},
		{"a long text leaves half to others", "a30,2 b2,2,2", "", false, 8, 10, "a1:0-2@1 b0:0-2@2 a0:0-6@0+"},
		{"who is first is not passed over", "a30 b4,4,4", "", false, 8, 10, "b0:0-4@1 a0:0-6@0+"},
		{"the long one goes on in its sequence", "a30 b2", "a0:12@0", false, 8, 10, "b0:0-2@1 a0:12-20@0+"},
		{"others take the sequences beside it", "a30 b1,1,1", "a0:12@1", false, 8, 10, "b0:0-1@0 b1:0-1@2 b2:0-1@3 a0:12-19@1+"},
		{"its last tokens", "a30 b2", "a0:28@0", false, 8, 10, "b0:0-2@1 a0:28-30@0"},
		{"the next long one begins behind its end", "a30 b40", "a0:28@0", false, 8, 10, "a0:28-30@0 b0:0-8@1+"},
		{"there is one long text at a time", "b40 a30", "b0:5@0", false, 8, 10, "b0:5-15@0+"},
		{"a call of one token", "a3 b1", "a0:1@0", false, 8, 1, "a0:1-2@0+"},

		{"whole texts are not cut", "a4,4,4 b4", "", true, 8, 10, "a0:0-4@0 b0:0-4@1"},
		{"who is first is not cut either", "a30 b4", "", true, 8, 10, "a0:0-30@0"},
		{"others wait for their turn", "a4 b30 c4", "", true, 8, 10, "a0:0-4@0 c0:0-4@1"},
	} {
		requests := wish(tt.requests)
		var long *longText
		if tt.long != "" {
			var name rune
			long = &longText{}
			if _, err := fmt.Sscanf(tt.long, "%c%d:%d@%d", &name, &long.text, &long.done, &long.seq); err != nil {
				t.Fatal(err)
			}
			for i, word := range strings.Fields(tt.requests) {
				if rune(word[0]) == name {
					long.of = requests[i]
				}
			}
			long.of.next = long.text + 1
		}
		l := llm.EmbedLimits{Sequences: tt.seqs, Whole: tt.whole}
		want := tt.want
		if strings.HasPrefix(tt.requests, "b") { // the names are those of the places
			want = strings.NewReplacer("a", "b", "b", "a").Replace(want)
		}
		if got := described(requests, deal(requests, long, l, tt.tokens, nil)); got != want {
			t.Errorf("%s: %s\nwant %s", tt.promise, got, want)
		}
	}
}

func TestACallsTokensFollowWhatATokenCosts(t *testing.T) {
	var p embedPace
	if n := p.tokens(2048); n != embedFirst {
		t.Errorf("the first call has %d tokens", n)
	}
	for range 20 {
		n := p.tokens(2048)
		p.computed(n, time.Duration(n)*time.Millisecond)
	}
	if n := p.tokens(2048); n != int(embedSlice/time.Millisecond) {
		t.Errorf("at a millisecond per token a call has %d tokens", n)
	}
	p.computed(3, time.Second) // what a call costs is not what a token costs
	if n := p.tokens(2048); n != int(embedSlice/time.Millisecond) {
		t.Errorf("after a small call a call has %d tokens", n)
	}
	for range 40 {
		p.computed(100, time.Hour)
	}
	if n := p.tokens(2048); n != embedLeast {
		t.Errorf("of a slow engine a call has %d tokens", n)
	}
	for range 200 {
		p.computed(1000, 0)
	}
	if n := p.tokens(2048); n != 2048 {
		t.Errorf("of a fast engine a call has %d tokens", n)
	}
}
