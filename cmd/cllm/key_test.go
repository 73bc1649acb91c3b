package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ollama/ollama/auth"
)

func TestServeMakesTheKeyThatOllamaSignsWith(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := makeKey(home); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, ".ollama", "id_ed25519")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	public, err := auth.GetPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if written, err := os.ReadFile(path + ".pub"); err != nil || strings.TrimSpace(string(written)) != public {
		t.Errorf("the public key is %q, %v; want %q", written, err, public)
	}
	signed, err := auth.Sign(t.Context(), []byte("data"))
	if err != nil || !strings.HasPrefix(signed, strings.Fields(public)[1]+":") {
		t.Errorf("signed: %q, %v", signed, err)
	}
	if err := makeKey(home); err != nil {
		t.Fatal(err)
	}
	if again, err := auth.GetPublicKey(); err != nil || again != public {
		t.Errorf("a second start made another key: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(home, ".ollama", ".*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
