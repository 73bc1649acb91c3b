package daemon

import (
	"net"
	"net/http"

	"github.com/gin-gonic/gin"
)

func init() { gin.SetMode(gin.ReleaseMode) } // otherwise gin prints its advice to the standard output

// routes is all that the daemon serves.
func (d *Daemon) routes(bound net.Addr) http.Handler {
	r := gin.New()
	r.HandleMethodNotAllowed = true
	r.Use(d.record, d.survive, d.origins, checkHost(bound))

	r.HEAD("/", d.root)
	r.GET("/", d.root)
	r.HEAD("/api/version", d.version)
	r.GET("/api/version", d.version)
	r.GET("/api/status", d.status)
	r.GET("/metrics", d.metrics())

	r.POST("/api/me", d.whoami)
	r.POST("/api/signout", d.signOut)
	r.DELETE("/api/user/keys/:key", d.signOut)
	r.GET("/api/experimental/aliases", d.listAliases)
	r.POST("/api/experimental/aliases", d.limitBody, d.setAlias)
	r.DELETE("/api/experimental/aliases", d.limitBody, d.deleteAlias)

	r.POST("/api/generate", d.limitBody, d.generate)
	r.POST("/api/chat", d.limitBody, d.chat)
	r.POST("/api/embed", d.limitBody, d.embed)
	r.POST("/api/embeddings", d.limitBody, d.embeddings)
	r.GET("/api/ps", d.ps)

	r.HEAD("/api/tags", d.tags)
	r.GET("/api/tags", d.tags)
	r.POST("/api/show", d.limitBody, d.show)
	r.POST("/api/copy", d.limitBody, d.copy)
	r.DELETE("/api/delete", d.limitBody, d.delete)
	r.POST("/api/create", d.limitBody, d.create)
	r.POST("/api/pull", d.limitBody, d.pull)
	r.POST("/api/push", d.limitBody, d.push)
	r.HEAD("/api/blobs/:digest", d.hasBlob)
	r.POST("/api/blobs/:digest", d.uploadBlob)

	r.POST("/v1/chat/completions", d.limitBody, d.chatCompletions)
	r.POST("/v1/completions", d.limitBody, d.completions)
	r.POST("/v1/embeddings", d.limitBody, d.embeddingList)
	r.GET("/v1/models", d.modelList)
	r.GET("/v1/models/:model", d.modelEntry)
	r.POST("/v1/responses", d.limitBody, d.responses)
	r.POST("/v1/messages", d.limitBody, d.messages)

	// It sends //api/chat, which a base URL with a slash at its end gives, to /api/chat.
	clean := http.NewServeMux()
	clean.Handle("/", r)
	return clean
}
