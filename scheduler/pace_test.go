package scheduler

import (
	"testing"
	"time"
)

func TestPromptsGetASliceOfTimeBetweenDecodeSteps(t *testing.T) {
	var p pace
	if got := p.tokens(); got != firstChunk {
		t.Errorf("unmeasured: %d tokens, want %d", got, firstChunk)
	}
	p.prefilled(120, 0, 240*time.Millisecond) // 2 ms a token
	if got := p.tokens(); got != 0 {
		t.Errorf("240 ms of a 250 ms slice are spent: %d tokens, want 0", got)
	}
	p.decoded(50 * time.Millisecond)
	if got := p.tokens(); got != 100 {
		t.Errorf("a new slice at 2 ms a token: %d tokens, want 100", got)
	}
	p.prefilled(80, 0, 160*time.Millisecond)
	if got := p.tokens(); got != 20 {
		t.Errorf("40 ms left: %d tokens, want 20", got)
	}
	p.prefilled(10, 0, 20*time.Millisecond)
	if got := p.tokens(); got != 0 {
		t.Errorf("20 ms left, too little for a pass: %d tokens, want 0", got)
	}
}

func TestLongDecodeStepsLeaveLongSlices(t *testing.T) {
	var p pace
	p.prefilled(100, 0, 200*time.Millisecond)
	p.decoded(400 * time.Millisecond)
	if got := p.tokens(); got != 250 {
		t.Errorf("%d tokens beside decode steps of 400 ms, want 250", got)
	}
}

func TestPromptsGetOnHoweverSlowTheEngine(t *testing.T) {
	var p pace
	p.prefilled(1, 0, time.Minute)
	p.decoded(time.Second)
	if got := p.tokens(); got != leastChunk {
		t.Errorf("%d tokens, want %d", got, leastChunk)
	}
}
