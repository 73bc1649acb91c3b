// Sizes reports Go files and functions that have grown too long to be read at
// once: files over 400 lines, functions over 80, and over 60 in scheduler.
// Tests and generated files are not counted.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	maxFile      = 400
	maxFunc      = 80
	maxSchedFunc = 60
)

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	found, err := check(os.DirFS(root))
	if err != nil {
		fmt.Fprintln(os.Stderr, "sizes:", err)
		os.Exit(2)
	}
	for _, line := range found {
		fmt.Println(line)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}

// check returns a line for each file and function in fsys that is too long.
func check(fsys fs.FS) ([]string, error) {
	var found []string
	err := fs.WalkDir(fsys, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "tmp") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		long, err := checkFile(fsys, path)
		found = append(found, long...)
		return err
	})
	return found, err
}

func checkFile(fsys fs.FS, path string) ([]string, error) {
	src, err := fs.ReadFile(fsys, path)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	if ast.IsGenerated(file) {
		return nil, nil
	}

	var found []string
	if n := strings.Count(string(src), "\n"); n > maxFile {
		found = append(found, fmt.Sprintf("%s: %d lines, more than %d", path, n, maxFile))
	}
	limit := maxFunc
	if strings.HasPrefix(path, "scheduler/") {
		limit = maxSchedFunc
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first, last := files.Position(fn.Pos()).Line, files.Position(fn.End()).Line
		if n := last - first + 1; n > limit {
			found = append(found, fmt.Sprintf("%s:%d: %s has %d lines, more than %d", path, first, fn.Name.Name, n, limit))
		}
	}
	return found, nil
}
