package llm

// EmbedLimits says how much an embedder takes. It never changes while the
// embedder lives.
type EmbedLimits struct {
	Sequences int // texts in one call; sequence ids are 0 to Sequences-1
	Context   int // tokens of one text
	Batch     int // tokens in one call
	Width     int // numbers in a vector

	// Whole: a text must come in one piece, and one that is longer than Batch as
	// the only one of its call. Otherwise it may come in parts, over several calls.
	Whole bool

	CellBytes   int64 // bytes that a token of an unfinished text occupies
	BufferBytes int64 // bytes of buffers for a call of Batch tokens
}

// EmbedPart is the next tokens of one text, which has a sequence to itself. A text
// begins with the first part for a sequence that is free.
type EmbedPart struct {
	Seq    SeqID
	Tokens []Token // at least one
	Last   bool    // the text ends here: its vector is wanted, and the sequence becomes free

	// Vector is what Embed returns for a last part: the embedding as the model
	// gives it, its length not normalized. It is the caller's to keep.
	Vector []float32
}

// Embedder turns texts into vectors, many texts in one pass over the weights.
// All methods but Abort must be called from one goroutine.
type Embedder interface {
	Limits() EmbedLimits

	// Embed computes the parts, each of another sequence. A text's vector does not
	// depend on the other texts, nor on how it was cut into parts, but for the last
	// bits. The error wraps ErrInvalidBatch when the parts broke a rule; then
	// nothing has changed. After any other error (ErrAborted, ErrFatal) all
	// unfinished texts are lost and only Close may be called.
	Embed(parts []EmbedPart) error

	// Forget frees the sequence of a text that nobody wants any more.
	Forget(seq SeqID)

	// Abort ends the call in progress, and every later one, with ErrAborted. It may
	// be called from any goroutine, also after Close. It works as soon as the
	// device lets it, which may be after the call.
	Abort()

	// Close frees the embedder.
	Close()
}
