package llamaloader

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"cllm/daemon"
	"cllm/llm"
	"cllm/scheduler"
)

// scripted is an engine that computes in earnest and goes on as a script says: so what
// drafts gain on a text can be measured with weights that would not write it.
type scripted struct {
	llm.Engine
	scripts [][]llm.Token // by the first token of a sequence's prompt
	held    map[llm.SeqID][]llm.Token
	prompt  int
	rows    []llm.Row
}

func (e *scripted) Decode(rows []llm.Row) error {
	for _, r := range rows {
		e.held[r.Seq] = append(e.held[r.Seq][:r.Pos], r.Token)
	}
	e.rows = append(e.rows[:0], rows...)
	return e.Engine.Decode(rows)
}

func (e *scripted) Copy(dst, src llm.SeqID, n llm.Pos) error {
	e.held[dst] = slices.Clone(e.held[src][:n])
	return e.Engine.Copy(dst, src, n)
}

func (e *scripted) Sample(picks []llm.Pick) {
	e.Engine.Sample(picks)
	for i := range picks {
		r := e.rows[picks[i].Row]
		script := e.scripts[e.held[r.Seq][0]]
		picks[i].Token = script[(int(r.Pos)+1-e.prompt)%len(script)]
	}
}

// BenchmarkDrafts tells how many times as fast answers come with drafts as without, for
// one to four clients: a source file with an edited name in it, a summary that quotes,
// and text that repeats nothing. Times and rates are medians over the b.N rounds, the
// drafts of a token means. CLLM_BENCH_MODEL names the model.
func BenchmarkDrafts(b *testing.B) {
	path := os.Getenv("CLLM_BENCH_MODEL")
	if path == "" {
		b.Skip("CLLM_BENCH_MODEL names no model")
	}
	source, err := os.ReadFile("llamaloader.go")
	if err != nil {
		b.Fatal(err)
	}
	code := string(source)[:2500]
	sentences := strings.SplitAfter(prose, ". ")
	for name, text := range map[string]struct{ prompt, answer string }{
		"edit": {"Rename model to weights:\n" + code, strings.ReplaceAll(code, "model", "weights")},
		"summary": {"Summarize:\n" + prose, "It is about a harbour. " + sentences[1] + "We read that " +
			sentences[3] + "As for the lighthouse: " + sentences[4] + "And there is a market. " + sentences[5]},
		"new": {"Tell me something:\n" + code, novel},
	} {
		for _, clients := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("text=%s,clients=%d", name, clients), func(b *testing.B) {
				var ratios, rates []float64
				var drafted, stood, tokens int64
				first := true // the order turns round: the machine's speed changes
				for b.Loop() {
					took, stats := map[bool]float64{}, map[bool]scheduler.Stats{}
					for _, without := range []bool{first, !first} {
						took[without], stats[without] = draftRun(b, path, text.prompt, text.answer, clients, without)
					}
					first = !first
					with := stats[false]
					drafted, stood, tokens = drafted+with.DraftTokens, stood+with.DraftsStood, tokens+with.DecodeTokens
					ratios = append(ratios, took[true]/took[false])
					rates = append(rates, float64(with.DecodeTokens)/took[false])
				}
				slices.Sort(ratios)
				slices.Sort(rates)
				b.ReportMetric(ratios[len(ratios)/2], "times-as-fast")
				b.ReportMetric(rates[len(rates)/2], "tokens/s")
				b.ReportMetric(float64(drafted)/float64(tokens), "drafted/token")
				b.ReportMetric(float64(stood)/float64(tokens), "stood/token")
			})
		}
	}
}

// draftRun returns the seconds that the decoding of the answers took, and what was drafted.
// An answer is the text once, or its first 300 tokens: a second time it would be known.
func draftRun(b *testing.B, path, prompt, text string, clients int, without bool) (float64, scheduler.Stats) {
	m, err := newLoader(b, Options{}).Load(b.Context(), daemon.LoadSpec{ModelPath: path, Slots: 64}, noProgress)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	e := &scripted{Engine: m.Engine, held: make(map[llm.SeqID][]llm.Token), scripts: make([][]llm.Token, clients)}
	p := append([]llm.Token{0}, m.Vocab.Tokenize(prompt, false)...)
	e.prompt = len(p)
	s, err := scheduler.New(e, m.Vocab, scheduler.Options{NoDrafts: without})
	if err != nil {
		b.Fatal(err)
	}
	script := m.Vocab.Tokenize(text, false)
	script = script[:min(300, len(script))]
	var streams []*scheduler.Stream
	for i := range clients {
		e.scripts[i] = script
		p[0] = llm.Token(i)
		st, err := s.Submit(context.Background(), scheduler.Request{Prompt: p, MaxTokens: len(script)})
		if err != nil {
			b.Fatal(err)
		}
		streams = append(streams, st)
	}
	go func() { _ = s.Run() }()
	defer s.Close()
	longest := 0.0
	for _, st := range streams {
		done := (&bench{b, s, m.Vocab}).read(st).done
		if done.Tokens != len(script) {
			b.Fatal(done.Tokens)
		}
		longest = max(longest, done.Decode.Seconds())
	}
	return longest, s.Stats()
}

const prose = `The harbour of the town was built in the year of the great flood, when the old one had been carried away. ` +
	`Its walls are made of granite blocks that weigh four tons each and were brought by barges from the quarry at Penmoor. ` +
	`Nobody knows who drew the plans. The master of the works kept a diary, but it ends a year before the first stone was laid. ` +
	`In summer the ferries leave every hour for the three islands, and the last boat comes back shortly before midnight. ` +
	`The lighthouse at the end of the mole has been dark since the keeper retired, although the council promised to light it again. ` +
	`Fishermen sell their catch from the steps on the north side between six and eight in the morning. `

const novel = `Bees navigate by polarized sunlight, which tells them where home lies even under clouds. Copper kettles ` +
	`conduct heat about eight times better than steel ones do, yet tarnish within weeks. A fugue states one theme, answers it ` +
	`a fifth higher, then piles voices until nobody hears single lines anymore. Glaciers flow like cold honey: ice near bedrock ` +
	`drags, while upper layers slide past. Ancient Polynesians read swells with their feet, lying flat inside canoes. Bread rises ` +
	`because yeast exhales carbon dioxide trapped by gluten. Most deserts receive fog, not rain; beetles there drink dew off ` +
	`their own backs. Printing began with seals pressed in clay long before Gutenberg cast type. Owls hear mice under snow thanks ` +
	`to lopsided ears. Violins owe much of their voice to varnish, or so makers claim whenever tourists ask. Tides lag behind ` +
	`lunar transit since basins resonate. Granite weathers into sand, clay, salt. Chess engines prune branches humans never see. ` +
	`Saffron needs seventy thousand blossoms per pound, picked before dawn.`
