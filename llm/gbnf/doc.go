// Package gbnf holds what a model writes to a grammar in llama.cpp's GBNF
// notation.
//
// A Grammar is what Parse makes of a text; it never changes and may be used by
// many. A Matcher is a place in it: one request's way through the text that it
// has written so far. It implements llm.Grammar and belongs to one goroutine.
//
// Grammars come from clients, so everything is bounded, and what passes a bound
// is an error and not a crash, a hang or all the memory: the size of a grammar,
// the depth of its groups, its repetitions, and the work of one call. llama.cpp's
// own matcher, which this one replaces, looks for all ways through a grammar for
// each token anew and has no such bound: a few alternatives that begin alike
// can keep it busy for years.
//
// What a grammar can be doing at a point of the text is a set of stacks: where it
// stands in a rule, and where it goes on after that rule. Sets that were met once
// are kept, with the set to which each character leads, so that most characters
// cost one look into a table.
package gbnf
