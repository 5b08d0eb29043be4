//! From files and texts to the tensors that the networks read, and from logits to tokens: once for training and serving.

pub mod bert_tokenizer;
pub mod chat;
pub mod classifier_image;
pub mod colours;
pub mod completeness;
pub mod decode;
pub mod header;
pub mod phantom;
pub mod positions;
pub mod qwen_image;
pub mod qwen_tokenizer;
pub mod resize;
pub mod rotary;
pub mod sampling;
pub mod scale;
pub mod settings;
mod source;
pub mod stain;
mod tiff_directory;
pub mod tissue;
pub mod whole_slide;
