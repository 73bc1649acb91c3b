// Package modelstore is Ollama's model folder: names, manifests and blobs in the
// same places and the same bytes, so that Ollama and cllm can use it in turn.
//
//	DIR/manifests/HOST/NAMESPACE/MODEL/TAG   one JSON file per name
//	DIR/blobs/sha256-<64 hex>                weights, template, system text, parameters, ...
//	DIR/blobs/sha256-<64 hex>-partial*       a download that can go on later
//	DIR/blobs/tmp-*, DIR/manifests/.tmp-*    being written; garbage after a crash
//
// A blob is named by the hash of its content and never changes. A name becomes
// visible last: everything is written to a temporary file, hashed, synced, renamed
// and the folder synced, and only then is the manifest put in place the same way.
// A crash therefore leaves whole models and garbage, and nothing in between; the
// garbage goes when the store is opened or pruned.
//
// A pull writes each blob to its -partial file, many parts at a time, and notes beside
// it how far each part is: the next pull goes on there, this program's or Ollama's.
// Data is hashed as it comes; only what is verified becomes a blob, and the model's
// name comes last. Pulls of one blob share its download, which ends with the last of
// them. A registry is reached through the http.RoundTripper of Registry alone.
//
// The file system owns all state. A Store caches what it has read, by the identity
// of the file (inode, size, time), so another program's changes are seen at once.
// All methods of a Store may be used from many goroutines. One lock per Store
// orders the changes of names; blobs are written outside of it, and are protected
// from Delete and Prune until the manifest that needs them is there. With the lock
// goes one on the folder of blobs, for other processes that use this package: no
// manifest is written while one of them removes blobs. Their blobs are not protected
// here, so that a Create may fail whose files another process's Delete took away, with
// an error that says so. Ollama knows no locks: Prune spares everything that is
// younger than an hour (downloads: a day), and renames keep every file whole.
//
// No path outside DIR is ever read or written: names and digests are checked
// before they become paths, and symbolic links inside manifests and blobs are
// followed only while they stay inside. DIR itself, DIR/manifests and DIR/blobs
// may be links of their owner's making.
package modelstore
