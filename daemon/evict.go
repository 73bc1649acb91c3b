package daemon

import (
	"cmp"
	"slices"
	"time"
)

// occupant is a resident model as evict sees it.
type occupant struct {
	going     bool // it takes no new requests and leaves when its last one has ended
	busy      bool
	keepAlive time.Duration
	idleSince time.Time
	size      int64 // bytes that come free when it goes
}

// need is how much its use speaks for keeping it.
func (o occupant) need() int {
	switch {
	case o.going:
		return 0
	case !o.busy:
		return 1
	default:
		return 2
	}
}

// evict says which resident models, by index, must be gone before one of size
// bytes may come: at most limit models are resident, and free bytes are there now.
// The least needed come first: those that are going anyway, then idle ones, then
// busy ones, which finish their requests; among equals the shorter keep_alive,
// then the longest idle. It is not ok when the memory would not do even if all
// were gone; then none has to go.
func evict(size, free int64, limit int, resident []occupant) (victims []int, ok bool) {
	order := make([]int, len(resident))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := resident[a], resident[b]
		return cmp.Or(cmp.Compare(x.need(), y.need()), cmp.Compare(x.keepAlive, y.keepAlive), x.idleSince.Compare(y.idleSince))
	})
	for len(resident)-len(victims) >= limit || size > free {
		if len(victims) == len(order) {
			return nil, false
		}
		next := order[len(victims)]
		victims = append(victims, next)
		free += resident[next].size
	}
	return victims, true
}
