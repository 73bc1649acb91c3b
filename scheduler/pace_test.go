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
	p.prefilled(120, 0, 240*time.Millisecond, true) // 2 ms a token
	if got := p.tokens(); got != 0 {
		t.Errorf("240 ms of a 250 ms slice are spent: %d tokens, want 0", got)
	}
	p.decoded(50*time.Millisecond, true)
	if got := p.tokens(); got != 100 {
		t.Errorf("a new slice at 2 ms a token: %d tokens, want 100", got)
	}
	p.prefilled(80, 0, 160*time.Millisecond, true)
	if got := p.tokens(); got != 20 {
		t.Errorf("40 ms left: %d tokens, want 20", got)
	}
	p.prefilled(10, 0, 20*time.Millisecond, true)
	if got := p.tokens(); got != 0 {
		t.Errorf("20 ms left, too little for a pass: %d tokens, want 0", got)
	}
}

func TestLongDecodeStepsLeaveLongSlices(t *testing.T) {
	var p pace
	p.prefilled(100, 0, 200*time.Millisecond, true)
	p.decoded(400*time.Millisecond, true)
	if got := p.tokens(); got != 250 {
		t.Errorf("%d tokens beside decode steps of 400 ms, want 250", got)
	}
}

func TestPromptsGetOnHoweverSlowTheEngine(t *testing.T) {
	var p pace
	p.prefilled(1, 0, time.Minute, true)
	p.decoded(time.Second, true)
	if got := p.tokens(); got != leastChunk {
		t.Errorf("%d tokens, want %d", got, leastChunk)
	}
}

func TestAStepWithCopiesSaysNothingAboutItsRows(t *testing.T) {
	var p pace
	p.prefilled(100, 0, 200*time.Millisecond, true)
	p.decoded(50*time.Millisecond, true)
	before := p
	p.prefilled(20, 0, 150*time.Millisecond, false)
	if got, want := p.tokens(), 25; got != want {
		t.Errorf("150 ms of a 200 ms slice are spent: %d tokens, want %d", got, want)
	}
	p.decoded(500*time.Millisecond, false)
	if p != before {
		t.Errorf("copies changed what the steps cost: %+v, want %+v", p, before)
	}
}
