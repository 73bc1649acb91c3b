package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/ollama/ollama/api"

	"cllm/modelstore/demo/demotest"
)

// allQuestions makes TestTheDemoModelKnowsItsCorpus ask every phrasing of the corpus,
// not every sixteenth.
const allQuestions = "CLLM_TEST_ALL_QUESTIONS"

// question is what the demo model is asked and which answers are right.
type question struct {
	id, text string
	right    []string
}

// askAll asks all questions, 64 at a time, each in a conversation of its own, and
// returns which were answered right. A right answer has to be complete and proper.
func (s *server) askAll(t *testing.T, questions []question) []bool {
	t.Helper()
	right := make([]bool, len(questions))
	wrong := make([]string, len(questions))
	together(len(questions), func(i int) {
		r, err := s.chat(t.Context(), []api.Message{user(questions[i].text)})
		if err != nil {
			t.Errorf("[%s] %s: %v", questions[i].id, questions[i].text, err)
			return
		}
		answer := r.Message.Content
		right[i] = slices.Contains(questions[i].right, answer)
		switch {
		case !right[i]:
			wrong[i] = answer
		case r.DoneReason != "stop":
			t.Errorf("[%s] %s: the answer ended with %q", questions[i].id, questions[i].text, r.DoneReason)
		case !proper(answer):
			t.Errorf("[%s] is answered with no proper sentence: %q", questions[i].id, answer)
		}
	})
	shown := 0
	for i, answer := range wrong {
		if answer != "" && shown < 20 {
			shown++
			t.Logf("wrong: [%s] %s → %q", questions[i].id, questions[i].text, answer)
		}
	}
	return right
}

// properNames begin sentences in lower case.
var properNames = []string{"cgo", "cllm", "f16", "llama.cpp", "vLLM"}

// proper reports whether a text begins and ends as sentences do.
func proper(text string) bool {
	first, _, _ := strings.Cut(text, " ")
	begins := strings.HasPrefix(text, "`") || unicode.IsUpper([]rune(text + " ")[0]) || slices.Contains(properNames, first)
	return begins && strings.ContainsRune(".!?", rune(text[len(text)-1]))
}

// share is how many of these are true, in percent.
func share(right []bool) float64 {
	n := 0
	for _, r := range right {
		if r {
			n++
		}
	}
	return 100 * float64(n) / float64(len(right))
}

// corpusQuestions returns every step-th phrasing of each entry. Where it begins goes
// round with the entries.
func corpusQuestions(entries []demotest.Entry, step int) (questions []question) {
	for i, e := range entries {
		for j := i % step; j < len(e.Questions); j += step {
			questions = append(questions, question{e.ID, e.Questions[j], []string{e.Answer}})
		}
	}
	return questions
}

func TestTheDemoModelKnowsItsCorpus(t *testing.T) {
	if testing.Short() {
		t.Skip("over a thousand answers take a while")
	}
	step := 16 // each entry is asked at least twice
	if os.Getenv(allQuestions) != "" {
		step = 1
	}
	entries := demotest.Corpus(t)
	questions := corpusQuestions(entries, step)
	got := share(serveDemo(t).askAll(t, questions))
	t.Logf("%.1f %% of %d questions of the corpus are answered right", got, len(questions))
	if got < 95 {
		t.Errorf("that is less than 95 %%: train the demo model anew (scripts/demomodel/README.md)")
	}
}

func TestTheDemoModelUnderstandsOtherWords(t *testing.T) {
	var known, unknown []question
	for _, h := range demotest.HeldOuts(t, demotest.Corpus(t)) {
		q := question{"held out", h.Question, h.Answers}
		if h.Unknown {
			unknown = append(unknown, q)
		} else {
			known = append(known, q)
		}
	}
	if len(known) < 40 || len(unknown) < 20 {
		t.Fatalf("only %d and %d questions are held out", len(known), len(unknown))
	}
	s := serveDemo(t)
	got, refused := share(s.askAll(t, known)), share(s.askAll(t, unknown))
	t.Logf("%.1f %% of %d held-out questions are answered right", got, len(known))
	t.Logf("%.1f %% of %d questions about other things are refused", refused, len(unknown))
	if got < 60 {
		t.Errorf("less than 60 %% of the held-out questions are answered right")
	}
	if refused < 80 {
		t.Errorf("less than 80 %% of the questions about other things are refused")
	}
}
