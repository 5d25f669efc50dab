//! What Cambric is installed by: manifests, the image, scripts.

mod definitions;
mod image;
mod manifests;
mod scripts;
