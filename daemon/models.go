package daemon

import (
	"cmp"
	"errors"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cllm/modelstore"
)

// root answers HEAD and GET /. Clients look for this text.
func (d *Daemon) root(c *gin.Context) { c.String(http.StatusOK, "Ollama is running") }

// version answers GET /api/version.
func (d *Daemon) version(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"version": d.opts.Version}) }

// tags answers GET /api/tags: the models on disk, the newest first.
func (d *Daemon) tags(c *gin.Context) {
	entries, err := d.store.List()
	if err != nil {
		d.fail(c, err)
		return
	}
	models := make([]listed, 0, len(entries))
	for _, e := range entries {
		models = append(models, d.listed(e))
	}
	c.JSON(http.StatusOK, gin.H{"models": models})
}

// listed is a model on disk, with what later versions of Ollama tell in addition.
type listed struct {
	api.ListModelResponse
	Details      listedDetails      `json:"details"`
	Capabilities []model.Capability `json:"capabilities,omitempty"`
}

type listedDetails struct {
	api.ModelDetails
	ContextLength   int `json:"context_length,omitempty"`   // it was trained for
	EmbeddingLength int `json:"embedding_length,omitempty"` // width
}

// listed describes a model by its config, and by its weights where they can be read.
func (d *Daemon) listed(e modelstore.Entry) listed {
	name := e.Name.DisplayShortest()
	l := listed{
		ListModelResponse: api.ListModelResponse{
			Name:        name,
			Model:       name,
			RemoteModel: e.Config.RemoteModel,
			RemoteHost:  e.Config.RemoteHost,
			ModifiedAt:  e.ModifiedAt,
			Size:        e.Size,
			Digest:      e.Digest.Hex(),
		},
		Details: listedDetails{ModelDetails: details(e.Config)},
	}
	m, err := d.store.Get(e.Name)
	if err != nil {
		return l
	}
	switch info, err := m.Info(); {
	case err == nil:
		l.Details.ContextLength, l.Details.EmbeddingLength = info.ContextLength, info.EmbeddingLength
		l.Capabilities = m.Capabilities()
	case errors.Is(err, modelstore.ErrNoWeights):
		l.Details.ContextLength, l.Details.EmbeddingLength = e.Config.ContextLen, e.Config.EmbedLen
		l.Capabilities = m.Capabilities()
	}
	return l
}

// details is what the config of a model tells. Its parent is in the manifest.
func details(config model.ConfigV2) api.ModelDetails {
	return api.ModelDetails{
		Format:            config.ModelFormat,
		Family:            config.ModelFamily,
		Families:          config.ModelFamilies,
		ParameterSize:     config.ModelType,
		QuantizationLevel: config.FileType,
	}
}

// ps answers GET /api/ps: the models in memory, the one that stays longest first.
func (d *Daemon) ps(c *gin.Context) {
	models := []api.ProcessModelResponse{}
	for _, r := range d.resident.list() {
		name := r.model.Name.DisplayShortest()
		models = append(models, api.ProcessModelResponse{
			Name:          name,
			Model:         name,
			Size:          r.size,
			Digest:        r.model.Digest.Hex(),
			Details:       details(r.model.Config),
			ExpiresAt:     r.expires,
			SizeVRAM:      r.vram,
			ContextLength: r.context,
		})
	}
	slices.SortStableFunc(models, func(a, b api.ProcessModelResponse) int {
		return cmp.Compare(b.ExpiresAt.Unix(), a.ExpiresAt.Unix())
	})
	c.JSON(http.StatusOK, api.ProcessResponse{Models: models})
}

// show answers POST /api/show.
func (d *Daemon) show(c *gin.Context) {
	var req api.ShowRequest
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	resp, err := d.describe(&req)
	if err != nil {
		d.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, resp)
}

// named is lookup with the errors of show for what is no name.
func (d *Daemon) named(written string) (*modelstore.Model, error) {
	if written == "" {
		return nil, newError(http.StatusBadRequest, textNoModel)
	}
	if n := model.ParseName(written); !n.IsValid() {
		return nil, model.Unqualified(n)
	}
	return d.lookup(written)
}

// describe is all that is known of a model.
func (d *Daemon) describe(req *api.ShowRequest) (*api.ShowResponse, error) {
	//lint:ignore SA1019 old clients send it
	written := cmp.Or(req.Model, req.Name)
	m, err := d.named(written)
	if err != nil {
		return nil, err
	}
	if m.Config.RemoteHost != "" {
		return nil, newError(http.StatusForbidden, textRemoteDetailsOff)
	}
	with := m.With(req.System, req.Options)
	resp := &api.ShowResponse{
		Modelfile:    with.Modelfile(),
		Parameters:   m.ParametersText(),
		Template:     m.Template.String(),
		System:       with.System,
		Details:      details(m.Config),
		Capabilities: m.Capabilities(),
		ModifiedAt:   m.ModifiedAt,
		Requires:     m.Config.Requires,
		ModelInfo:    map[string]any{},
	}
	resp.Details.ParentModel = m.ParentModel
	for i, text := range m.Licenses {
		if i > 0 {
			resp.License += "\n"
		}
		resp.License += text
	}
	for _, msg := range m.Messages {
		resp.Messages = append(resp.Messages, api.Message{Role: msg.Role, Content: msg.Content})
	}
	return resp, describeWeights(resp, m, req.Verbose)
}

// describeWeights adds what the model's files say about themselves.
func describeWeights(resp *api.ShowResponse, m *modelstore.Model, verbose bool) error {
	pairs, err := m.ModelInfo(verbose)
	if errors.Is(err, modelstore.ErrNoWeights) {
		return nil
	}
	if err != nil {
		return err
	}
	resp.ModelInfo = pairs
	info, err := m.Info()
	if err != nil {
		return err
	}
	resp.Tensors = make([]api.Tensor, 0, len(info.Tensors))
	for _, t := range info.Tensors {
		resp.Tensors = append(resp.Tensors, api.Tensor{Name: t.Name, Type: t.Type, Shape: t.Shape})
	}
	resp.ProjectorInfo, err = m.ProjectorInfo(verbose)
	return err
}

// copy answers POST /api/copy.
func (d *Daemon) copy(c *gin.Context) {
	var req api.CopyRequest
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	src, err := modelstore.ParseName(req.Source)
	if err != nil {
		d.fail(c, errorf(http.StatusBadRequest, "source %q is invalid", req.Source))
		return
	}
	dst, err := modelstore.ParseName(req.Destination)
	if err != nil {
		d.fail(c, errorf(http.StatusBadRequest, "destination %q is invalid", req.Destination))
		return
	}
	err = d.store.Copy(src, dst)
	if errors.Is(err, modelstore.ErrNotFound) {
		err = errorf(http.StatusNotFound, "model %q not found", req.Source)
	}
	if err != nil {
		d.fail(c, err)
		return
	}
	c.Status(http.StatusOK)
}

// delete answers DELETE /api/delete. A model in memory stays there until its
// keep_alive ends; the kernel keeps its file as long.
func (d *Daemon) delete(c *gin.Context) {
	var req api.DeleteRequest
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	//lint:ignore SA1019 old clients send it
	written := cmp.Or(req.Model, req.Name)
	name, err := modelstore.ParseName(written)
	if err != nil {
		d.fail(c, errorf(http.StatusBadRequest, "name %q is invalid", written))
		return
	}
	err = d.store.Delete(name)
	if errors.Is(err, modelstore.ErrNotFound) {
		err = notFound(written)
	}
	if err != nil {
		d.fail(c, err)
		return
	}
	c.Status(http.StatusOK)
}

// hasBlob answers HEAD /api/blobs/:digest.
func (d *Daemon) hasBlob(c *gin.Context) {
	digest, err := modelstore.ParseDigest(c.Param("digest"))
	if err != nil {
		d.fail(c, err)
		return
	}
	there, err := d.store.HasBlob(digest)
	if err == nil && !there {
		err = errorf(http.StatusNotFound, "blob %q not found", c.Param("digest"))
	}
	if err != nil {
		d.fail(c, err)
		return
	}
	c.Status(http.StatusOK)
}

// uploadBlob answers POST /api/blobs/:digest. The size of a blob is not bounded.
func (d *Daemon) uploadBlob(c *gin.Context) {
	digest, err := modelstore.ParseDigest(c.Param("digest"))
	if err != nil {
		d.fail(c, err)
		return
	}
	there, err := d.store.HasBlob(digest)
	if err != nil {
		d.fail(c, err)
		return
	}
	if there {
		c.Status(http.StatusOK)
		return
	}
	if err := d.store.WriteBlob(c.Request.Context(), digest, c.Request.Body); err != nil {
		d.fail(c, err)
		return
	}
	c.Status(http.StatusCreated)
}
