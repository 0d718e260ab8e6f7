"""Generated from proto/ by hack/gen-proto; never edited. Only the modules of `modelcsi.csi` import it."""
