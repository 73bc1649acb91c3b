package demo

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/modelstore"
)

func openStore(t *testing.T) *modelstore.Store {
	t.Helper()
	s, err := modelstore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func name(t *testing.T, text string) modelstore.Name {
	t.Helper()
	n, err := modelstore.ParseName(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func get(t *testing.T, s *modelstore.Store, text string) *modelstore.Model {
	t.Helper()
	m, err := s.Get(name(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// installed returns the model as a store has it after Install.
func installed(t *testing.T) *modelstore.Model {
	t.Helper()
	s := openStore(t)
	if err := Install(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return get(t, s, "demo")
}

func TestInstallMakesAWholeModel(t *testing.T) {
	m := installed(t)
	if got := m.Name.DisplayShortest(); got != "demo:latest" {
		t.Errorf("its name is %q", got)
	}
	if file, err := os.ReadFile(m.ModelPath); err != nil || string(file) != weights {
		t.Errorf("its weights are %d bytes, %v; those in the program %d", len(file), err, len(weights))
	}
	if m.Config.ModelFamily != "qwen3" || m.Config.FileType != "Q8_0" {
		t.Errorf("config: %+v", m.Config)
	}
	if diff := cmp.Diff(map[string]any{
		"temperature": 0.0, "repeat_penalty": 1.0, "num_thread": 1.0, "stop": []any{"<|im_start|>", "<|im_end|>"},
	}, m.Parameters); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
	mit, err := os.ReadFile("../../LICENSE")
	if err != nil || len(m.Licenses) != 1 || m.Licenses[0] != string(mit) {
		t.Errorf("its license is not that of the repository: %v, %q", err, m.Licenses)
	}
	if diff := cmp.Diff("[completion tools]", fmt.Sprint(m.Capabilities())); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
}

func TestTheFileIsSmallEnoughToComeWithTheProgram(t *testing.T) {
	if n := len(weights); n > 8<<20 {
		t.Errorf("demo.gguf has %d bytes, the most is 8 MiB", n)
	}
}

func TestAModelOfThatNameIsTheUsers(t *testing.T) {
	for _, users := range []string{"demo", "Demo"} {
		s := openStore(t)
		if err := Install(t.Context(), s); err != nil { // to have weights for one of the user's own
			t.Fatal(err)
		}
		if err := s.Create(t.Context(), modelstore.CreateRequest{Name: name(t, "mine"), From: "demo", System: "mine"}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(name(t, "demo")); err != nil {
			t.Fatal(err)
		}
		if err := s.Copy(name(t, "mine"), name(t, users)); err != nil {
			t.Fatal(err)
		}
		if err := Install(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if m := get(t, s, "demo"); m.System != "mine" {
			t.Errorf("the user's model %q was replaced", users)
		}
	}
}

func TestABrokenModelOfThatNameIsTheUsersToo(t *testing.T) {
	s := openStore(t)
	if err := Install(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(get(t, s, "demo").ModelPath); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if has, err := s.HasBlob(digest(t)); has || err != nil {
		t.Errorf("its weights were put back: %v", err)
	}
}

func digest(t *testing.T) modelstore.Digest {
	t.Helper()
	hex, _, _ := strings.Cut(checksum, " ")
	d, err := modelstore.ParseDigest("sha256:" + hex)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestADeletedModelComesBack(t *testing.T) {
	s := openStore(t)
	for range 2 {
		if err := Install(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(get(t, s, "demo").Name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADamagedFileIsNoticedAndNothingOfItIsStored(t *testing.T) {
	flipped := []byte(weights)
	flipped[len(flipped)-1] ^= 1
	for what, damaged := range map[string][2]string{
		"one bit":          {string(flipped), checksum},
		"cut off":          {weights[:len(weights)/2], checksum},
		"empty":            {"", checksum},
		"no checksum":      {weights, ""},
		"a bad checksum":   {weights, "none  demo.gguf\n"},
		"another checksum": {weights, strings.Repeat("0", 64) + checksum[64:]},
	} {
		s := openStore(t)
		err := install(t.Context(), s, damaged[0], damaged[1])
		var is *DamagedError
		if !errors.As(err, &is) || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "CLLM_NODEMO=1") {
			t.Errorf("%s: %v", what, err)
		}
		if list, err := s.List(); err != nil || len(list) > 0 {
			t.Errorf("%s: the store has %v, %v", what, list, err)
		}
		if has, err := s.HasBlob(digest(t)); has || err != nil {
			t.Errorf("%s: the weights are in the store, %v", what, err)
		}
	}
}
