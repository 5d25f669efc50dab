//! What Cambric is installed by: manifests, the image, scripts.

mod definitions;
mod documents;
mod image;
mod manifests;
mod monitoring;
mod overlays;
mod package;
mod scripts;
