package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
)

var words = strings.Fields(`time year people way day man thing woman life child world school state family student
	group country problem hand part place case week company system program question work government number night
	point home water room mother area money story fact month lot right study book eye job word business issue side
	kind head house service friend father power hour game line end member law car city community name president`)

// Streams of random numbers of one seed.
const (
	drawShared = iota
	drawProbe
	drawArrivals
	drawWarmup
	drawRuns // and up: one for each load of each repeat
)

func draw(seed, stream, i uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed^stream<<40, i))
}

// text is n random words. Two texts share a beginning only by chance, which is
// seldom more than a word.
func text(rng *rand.Rand, n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = words[rng.IntN(len(words))]
	}
	return strings.Join(out, " ")
}

// prompter makes the prompts of one server.
type prompter struct {
	seed           uint64
	shared, unique int // words
	prefix         string
}

// leastUnique is the words of a prompt that are its own: with fewer, prompts would come again.
const leastUnique = 4

// newPrompter makes prompts that have the tokens asked for, by the server's count, or a
// few more where template and shared beginning leave no room.
func newPrompter(t *target, o Options) prompter {
	inWords := func(tokens float64) int { return max(int(math.Round(tokens/t.perWord)), 0) }
	p := prompter{seed: o.Seed, shared: inWords(float64(o.SharedPrefix))}
	// The template is part of what the server counts, and most of it comes first.
	p.unique = max(inWords(float64(o.PromptTokens)-t.fixed)-p.shared, leastUnique)
	if p.shared > 0 {
		p.prefix = text(draw(o.Seed, drawShared, 0), p.shared) + " "
	}
	return p
}

// prompt is the prompt of request i. It has its own words for each stream; again
// tells apart servers with one address.
func (p prompter) prompt(stream, i, again int) string {
	return p.prefix + text(draw(p.seed, uint64(stream), uint64(again)<<32|uint64(i)), p.unique)
}

// fit has the server count two prompts, to know how many of its tokens a word has
// and how many its template. They hold every word once and twice, so that no word
// counts more than another. It loads the model, too.
func (t *target) fit(ctx context.Context, client *http.Client, o Options) error {
	rng := draw(o.Seed, drawProbe, uint64(t.again))
	count := func(times int) (float64, error) {
		var all []string
		for range times {
			all = append(all, words...)
		}
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		prompt := strings.Join(all, " ")
		r, err := ask(ctx, client, t, prompt, 1, o)
		if err != nil {
			return 0, fmt.Errorf("%s does not answer a first prompt with the model %s: %w", t.Name, t.Model, err)
		}
		return float64(r.promptTokens), nil
	}
	little, err := count(1)
	if err != nil {
		return err
	}
	much, err := count(2)
	if err != nil {
		return err
	}
	t.perWord = (much - little) / float64(len(words))
	t.fixed = 2*little - much
	if t.perWord <= 0 {
		return fmt.Errorf("%s counts %.0f tokens in a prompt of %d words and %.0f in one of twice as many; it does not say how long prompts are", t.Name, little, len(words), much)
	}
	return nil
}
