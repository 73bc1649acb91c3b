// Package llmtest holds what tests of the scheduler and the daemon put in an
// engine's place, and the suite that every engine has to pass.
//
// The fake Engine computes nothing, but it is strict: it verifies every batch and
// records each broken rule as a violation. Its next token is a function of all
// the tokens that the sequence holds, so an answer that saw another request's
// tokens, or lost one of its own, comes out different. Greedy says what an answer
// has to be.
package llmtest
