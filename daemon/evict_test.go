package daemon

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLeastNeededModelsGoFirst(t *testing.T) {
	now := time.Now()
	idle := func(size int64, keepAlive time.Duration, since time.Duration) occupant {
		return occupant{size: size, keepAlive: keepAlive, idleSince: now.Add(-since)}
	}
	busy := func(size int64, keepAlive time.Duration) occupant {
		return occupant{size: size, keepAlive: keepAlive, busy: true}
	}
	going := func(size int64) occupant { return occupant{size: size, keepAlive: forever, going: true, busy: true} }

	for _, tt := range []struct {
		name     string
		size     int64
		free     int64
		limit    int
		resident []occupant
		want     []int
		refused  bool
	}{
		{name: "nothing is resident", size: 10, free: 10, limit: 1},
		{name: "there is room", size: 10, free: 10, limit: 2, resident: []occupant{idle(5, time.Minute, 0)}},
		{name: "too many models", size: 1, free: 100, limit: 2, resident: []occupant{idle(5, time.Hour, 0), idle(5, time.Minute, 0)}, want: []int{1}},
		{name: "too little memory", size: 10, free: 6, limit: 9, resident: []occupant{idle(5, time.Minute, 0)}, want: []int{0}},
		{name: "the shorter keep_alive goes first", size: 10, free: 9, limit: 9, resident: []occupant{idle(5, forever, 0), idle(5, time.Minute, 0)}, want: []int{1}},
		{name: "the longest idle goes first among equals", size: 10, free: 9, limit: 9, resident: []occupant{idle(5, time.Minute, 1), idle(5, time.Minute, 9)}, want: []int{1}},
		{name: "an idle one goes before a busy one, whatever its keep_alive", size: 10, free: 9, limit: 9, resident: []occupant{busy(5, time.Second), idle(5, forever, 0)}, want: []int{1}},
		{name: "as many as it takes", size: 10, free: 1, limit: 9, resident: []occupant{idle(3, 3, 0), idle(3, 2, 0), idle(3, 1, 0), idle(3, 4, 0)}, want: []int{2, 1, 0}},
		{name: "busy ones when nothing else helps", size: 10, free: 1, limit: 9, resident: []occupant{busy(9, 1), idle(3, 2, 0)}, want: []int{1, 0}},
		{name: "one that is going counts as gone", size: 10, free: 1, limit: 9, resident: []occupant{idle(9, 1, 0), going(9)}, want: []int{1}},
		{name: "more than there is", size: 100, free: 1, limit: 9, resident: []occupant{idle(9, 1, 0), busy(9, 1)}, refused: true},
		{name: "more than there is, and nothing to evict", size: 2, free: 1, limit: 1, refused: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := evict(newcomer{size: tt.size}, tt.free, tt.limit, tt.resident)
			if ok == tt.refused {
				t.Fatalf("ok = %v", ok)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("victims (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSharedWeightsAreCountedOnce(t *testing.T) {
	sharing := func(weights string, since time.Duration) occupant {
		return occupant{size: 1, keepAlive: time.Hour, idleSince: time.Now().Add(-since), weights: weights, weightBytes: 10}
	}
	three := []occupant{sharing("a", 3), sharing("a", 2), sharing("b", 1)}
	if got := all(three); got != 23 {
		t.Errorf("all of them hold %d bytes", got)
	}
	for _, tt := range []struct {
		name string
		who  newcomer
		free int64
		want []int
		ok   bool
	}{
		{"who shares needs its own part only", newcomer{12, "a"}, 2, nil, true},
		{"who does not needs all", newcomer{12, "c"}, 2, []int{0, 1}, true},
		{"the first of two tenants frees its own part only", newcomer{5, "c"}, 4, []int{0}, true},
		{"the weights of the newcomer stay, whoever goes", newcomer{15, "a"}, 3, []int{0, 1}, true},
		{"not even if all went", newcomer{27, "a"}, 2, nil, false},
	} {
		got, ok := evict(tt.who, tt.free, 9, three)
		if diff := cmp.Diff(tt.want, got); diff != "" || ok != tt.ok {
			t.Errorf("%s: %v %v", tt.name, got, ok)
		}
	}
}
