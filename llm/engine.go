package llm

import "errors"

// Token is the number of a vocabulary entry.
type Token int32

// Pos is a position in a sequence, counted from 0.
type Pos int32

// SeqID names one of an engine's sequences: 0 to Limits.Sequences-1.
type SeqID int32

// Row is one token to decode.
type Row struct {
	Token  Token
	Pos    Pos
	Seq    SeqID
	Logits bool // the row's logits are wanted, so that Sample can pick from it
}

// Limits says how much an engine can hold. It never changes while the engine lives.
type Limits struct {
	Sequences int   // sequence ids are 0 to Sequences-1
	Context   int   // positions per sequence; what the model was trained for at most
	Batch     int   // rows in one Decode
	Outputs   int   // rows of them that may ask for logits, at least Sequences
	Unified   bool  // one pass over the weights serves any mix of sequences
	CellBytes int64 // bytes of KV cache that one token of one sequence occupies
}

// The classes of a failed Decode. After ErrNoRoom and ErrInvalidBatch the cache
// is as it was before the call. After ErrAborted and ErrFatal a part of the rows
// may be held: ask Held, or truncate the sequence.
var (
	// ErrNoRoom: no KV cells for the batch. Fewer rows, or fewer held tokens, may fit.
	ErrNoRoom = errors.New("the KV cache has no room for the batch")
	// ErrAborted: the computation was stopped from outside.
	ErrAborted = errors.New("decoding was aborted")
	// ErrInvalidBatch: the batch broke a rule. It is a bug of the caller.
	ErrInvalidBatch = errors.New("the batch is invalid")
	// ErrFatal: the engine failed. It can't be trusted any more.
	ErrFatal = errors.New("the engine failed")
	// ErrUnsupported: the model's memory can't do this (recurrent models keep
	// one state and no positions). The caller truncates to 0 and decodes anew.
	ErrUnsupported = errors.New("the model's memory does not support this")
)

// Engine computes logits for rows and keeps the KV cache of the sequences.
// All methods must be called from one goroutine.
type Engine interface {
	Limits() Limits

	// Decode computes rows, at most Limits.Batch of them. The rows of a sequence
	// stand in order of position, with no gap after what is held. Errors wrap one
	// of ErrNoRoom, ErrAborted, ErrInvalidBatch and ErrFatal.
	Decode(rows []Row) error

	// Sample picks a token for each pick, from the logits of the last Decode.
	// It samples the picks in parallel where that pays. A pick that fails carries
	// its own error; the others are not touched by it.
	Sample(picks []Pick)

	// Held returns how many positions the sequence holds.
	Held(seq SeqID) Pos

	// Truncate forgets all positions from n on. Truncating to 0 never fails.
	// Otherwise the error is ErrUnsupported when only the whole can be forgotten.
	Truncate(seq SeqID, n Pos) error

	// Shift forgets the positions keep to keep+discard-1 and moves the later ones
	// down by discard. The error is ErrUnsupported when the memory can't shift.
	Shift(seq SeqID, keep, discard Pos) error

	// Copy makes dst hold what the first n positions of src hold. What dst held
	// before is forgotten. src keeps its content.
	Copy(dst, src SeqID, n Pos) error

	// Trim gives back the memory that empty sequences have left. It is for times
	// without work: the next tokens take a little longer.
	Trim()

	// Close frees the engine. No method may be called afterwards.
	Close()
}

// Pick asks for one token from one row of the last Decode.
type Pick struct {
	Row      int       // index into the rows of the last Decode; that row asked for logits
	Sampler  *Sampler  // the request's sampler; used by no other pick of the call
	Token    Token     // out: the token
	Err      error     // out: why there is no token
	Logprobs *Logprobs // filled with what was likely; nil: not wanted, and at no cost
}

// Logprobs tells how likely a row makes its tokens, before penalties, grammar and
// temperature.
type Logprobs struct {
	Most   int       // how many tokens Top shall hold
	Picked float32   // out: of the pick's token
	Top    []Logprob // out: the likeliest tokens, likeliest first; none of probability 0
}

// Logprob is a token and the natural logarithm of its probability.
type Logprob struct {
	Token   Token
	Logprob float32
}

// Vocab turns text into tokens and back. All methods may be called from many
// goroutines at once.
type Vocab interface {
	// Tokenize cuts text into tokens. With special, the model's own begin and end
	// tokens are added where it wants them. Names of control tokens in the text
	// (<|im_start|>) always become those tokens: a rendered chat prompt holds them.
	Tokenize(text string, special bool) []Token

	// Piece returns the bytes that a token stands for. A piece may hold a part of a
	// UTF-8 character. The text of a control token is its name.
	Piece(t Token) string

	// IsEnd reports whether t ends the generation (end of text, end of turn).
	IsEnd(t Token) bool

	// BOS reports how many tokens Tokenize with special puts before the text: 0 or 1.
	BOS() int

	// Size is the number of tokens.
	Size() int
}

// Grammar restricts what may be sampled next. It belongs to one request and to the
// goroutine that samples for it. An error says that it can't be applied any more.
type Grammar interface {
	// Take moves on by a token that was drawn, and reports whether it did: whether
	// the token may come next.
	Take(t Token) (bool, error)

	// Filter drops the candidates that may not come next, in place and in order,
	// and returns the rest.
	Filter(c []Candidate) ([]Candidate, error)

	// Complete reports whether nothing more has to come.
	Complete() bool
}
