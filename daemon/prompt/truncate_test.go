package prompt

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
)

// plain writes each message as one letter for its role and its content.
var plain = mustParse(`{{ range .Messages }}{{ slice .Role 0 1 }}:{{ .Content }};{{ end }}`)

func mustParse(text string) *template.Template {
	t, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return t
}

// letters are the tokens of these tests: one per byte.
func letters(text string) []byte { return []byte(text) }

// talk makes a conversation of texts that begin with the letter of their role.
func talk(texts ...string) Conversation {
	roles := map[byte]string{'s': "system", 'u': "user", 'a': "assistant"}
	var c Conversation
	for _, text := range texts {
		c.Messages = append(c.Messages, api.Message{Role: roles[text[0]], Content: text[2:]})
	}
	return c
}

func TestTheOldestMessagesGoUntilTheRestFits(t *testing.T) {
	for _, c := range []struct {
		name  string
		talk  []string
		limit int
		want  string
	}{
		{"all fit", []string{"u:1", "a:2", "u:3"}, 12, "u:1;a:2;u:3;"},
		{"one too long", []string{"u:1", "a:2", "u:3"}, 11, "a:2;u:3;"},
		{"only the last fits", []string{"u:1", "a:2", "u:3"}, 4, "u:3;"},
		{"not even the last fits", []string{"u:1", "a:2", "u:3"}, 1, "u:3;"},
		{"system stays", []string{"s:0", "u:1", "a:2", "u:3"}, 8, "s:0;u:3;"},
		{"a late system stays", []string{"u:1", "s:0", "a:2", "u:3"}, 8, "s:0;u:3;"},
		{"system stays even without room", []string{"s:0", "u:1", "a:2", "u:3"}, 1, "s:0;u:3;"},
		{"one message", []string{"u:123456"}, 1, "u:123456;"},
		{"system alone", []string{"s:123456"}, 1, "s:123456;"},
	} {
		got, err := Fit(Style{Template: plain}, talk(c.talk...), c.limit, letters)
		if err != nil {
			t.Fatal(err)
		}
		if got.Text != c.want || string(got.Tokens) != c.want {
			t.Errorf("%s: %q with tokens %q, want %q", c.name, got.Text, got.Tokens, c.want)
		}
	}
}

func TestImagesOfMessagesThatWentAreNotCounted(t *testing.T) {
	c := talk("u:a", "u:b", "u:c")
	for i := range c.Messages {
		c.Messages[i].Images = []api.ImageData{{1}}
		c.Messages[i].Role = fmt.Sprint(i) // or they would be merged
	}
	got, err := Fit(Style{Template: plain}, c, 2*len("1:[img-0]b;"), letters)
	if err != nil {
		t.Fatal(err)
	}
	if want := "1:[img-0]b;2:[img-1]c;"; got.Text != want || got.Images != 2 {
		t.Errorf("%d images in %q, want 2 in %q", got.Images, got.Text, want)
	}
}

// oneByOne is what Fit has to come to: try without the first message, without the
// first two, and so on.
func oneByOne(t *testing.T, s Style, c Conversation, limit int) string {
	for first := range c.Messages {
		rest := c
		rest.Messages = startAt(c.Messages, first)
		r, err := s.Render(rest)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Text) <= limit || first == len(c.Messages)-1 {
			return r.Text
		}
	}
	return ""
}

func TestHalvingFindsWhatTryingOneByOneFinds(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		var texts []string
		for range 1 + r.IntN(20) {
			texts = append(texts, string("suuaa"[r.IntN(5)])+":"+strings.Repeat("x", r.IntN(9)))
		}
		c, limit := talk(texts...), r.IntN(120)
		got, err := Fit(Style{Template: plain}, c, limit, letters)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(oneByOne(t, Style{Template: plain}, c, limit), got.Text); diff != "" {
			t.Fatalf("seed %d, limit %d, %q:\n%s", seed, limit, texts, diff)
		}
	}
}

func TestALongConversationIsTokenizedFewTimes(t *testing.T) {
	texts := make([]string, 1000)
	for i := range texts {
		texts[i] = string("ua"[i%2]) + ":some text"
	}
	times := 0
	count := func(text string) []byte { times++; return []byte(text) }
	if _, err := Fit(Style{Template: plain}, talk(texts...), 500, count); err != nil {
		t.Fatal(err)
	}
	if times > 12 {
		t.Errorf("tokenized %d times", times)
	}
	times = 0
	if _, err := Fit(Style{Template: plain}, talk(texts...), 1<<20, count); err != nil {
		t.Fatal(err)
	}
	if times != 1 {
		t.Errorf("what fits was tokenized %d times, want once", times)
	}
}

func TestFitLeavesTheMessagesAsTheyAre(t *testing.T) {
	c, same := talk("s:0", "u:1", "u:2", "a:3", "u:4"), talk("s:0", "u:1", "u:2", "a:3", "u:4")
	if _, err := Fit(Style{Template: plain}, c, 10, letters); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(same.Messages, c.Messages, cmp.AllowUnexported(api.ToolCallFunctionArguments{})); diff != "" {
		t.Error(diff)
	}
}
