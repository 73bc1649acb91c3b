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

	weights     string // the same for those that share them
	weightBytes int64  // that come free when the last of these goes
}

// newcomer is a model that wants to come.
type newcomer struct {
	size    int64  // bytes, with its weights
	weights string // it needs none of its own where an occupant has the same
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

// tenants counts the occupants of each set of weights.
func tenants(list []occupant) map[string]int {
	n := make(map[string]int)
	for _, o := range list {
		n[o.weights]++
	}
	return n
}

// leave is what comes free when one of the tenants goes.
func (o occupant) leave(tenants map[string]int) int64 {
	if tenants[o.weights]--; tenants[o.weights] > 0 {
		return o.size
	}
	return o.size + o.weightBytes
}

// all is what comes free when all go.
func all(list []occupant) (bytes int64) {
	left := tenants(list)
	for _, o := range list {
		bytes += o.leave(left)
	}
	return bytes
}

// evict says which resident models, by index, must be gone before another one
// may come: at most limit models are resident, and free bytes are there now.
// The least needed come first: those that are going anyway, then idle ones, then
// busy ones, which finish their requests; among equals the shorter keep_alive,
// then the longest idle. It is not ok when the memory would not do even if all
// were gone; then none has to go.
func evict(who newcomer, free int64, limit int, resident []occupant) (victims []int, ok bool) {
	left := tenants(resident)
	i := slices.IndexFunc(resident, func(o occupant) bool { return o.weights == who.weights })
	if i >= 0 {
		who.size -= resident[i].weightBytes
		left[who.weights]++ // it is a tenant, too: these weights stay, whoever goes
	}
	order := make([]int, len(resident))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := resident[a], resident[b]
		return cmp.Or(cmp.Compare(x.need(), y.need()), cmp.Compare(x.keepAlive, y.keepAlive), x.idleSince.Compare(y.idleSince))
	})
	for len(resident)-len(victims) >= limit || who.size > free {
		if len(victims) == len(order) {
			return nil, false
		}
		next := order[len(victims)]
		victims = append(victims, next)
		free += resident[next].leave(left)
	}
	return victims, true
}
