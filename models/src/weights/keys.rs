//! Names of tensors: every style that checkpoints are written in, and the one canonical style that networks use.

/// Which family of checkpoints: decides the key styles, prefixes and known extras that are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// Qwen2.5-VL. Canonical: the hub's `model.embed_tokens`, `model.layers.N`, `model.norm`, `lm_head`, `visual`; accepted too:
    /// `model.language_model` and `model.visual`.
    Qwen,
    /// VGG16 with torchvision's keys.
    Vgg16,
    /// Swin. Canonical: torchvision's keys; accepted too: the hub's, with or without `swin.`.
    Swin,
    /// BERT. Canonical: transformers' `BertModel`; accepted too: the prefix `bert.` and `LayerNorm.gamma` and `.beta`.
    Bert,
    /// A classifier: `image` (torchvision's names), `text` (BERT's), `prmf`, `classifier`, `image_head`.
    Classifier,
}

/// What a key of a file stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The tensor of this canonical key.
    Tensor(String),
    /// One of three pieces, stacked along the first axis, of the tensor of this canonical key.
    Third(String, usize),
    /// Known, accepted and not used.
    Extra,
}

impl Naming {
    pub(super) fn role(self, key: &str) -> Role {
        match self {
            Naming::Qwen => qwen(key),
            Naming::Vgg16 => vgg16(key),
            Naming::Swin => swin(key),
            Naming::Bert => bert(key),
            Naming::Classifier => classifier(key),
        }
    }
}

fn qwen(key: &str) -> Role {
    if key.ends_with(".rotary_emb.inv_freq") || key.ends_with(".rotary_pos_emb.inv_freq") {
        return Role::Extra;
    }
    Role::Tensor(hub_key(key))
}

/// The hub's name of a Qwen2.5-VL tensor or module.
pub(super) fn hub_key(key: &str) -> String {
    match (key.strip_prefix("model.language_model."), key.strip_prefix("model.visual.")) {
        (Some(rest), _) => format!("model.{rest}"),
        (_, Some(rest)) => format!("visual.{rest}"),
        (None, None) => key.to_string(),
    }
}

fn vgg16(key: &str) -> Role {
    let head = ["0", "3", "6"].iter().any(|n| [".weight", ".bias"].iter().any(|s| key == format!("classifier.{n}{s}")));
    if head { Role::Extra } else { Role::Tensor(key.to_string()) }
}

fn swin(key: &str) -> Role {
    let key = key.strip_prefix("swin.").unwrap_or(key);
    if key.starts_with("head.") || key.starts_with("classifier.") || key.ends_with(".relative_position_index") {
        return Role::Extra;
    }
    torchvision_swin(key).unwrap_or_else(|| Role::Tensor(key.to_string()))
}

/// What the hub's name of a Swin tensor is in torchvision; `None` when it is not the hub's.
fn torchvision_swin(key: &str) -> Option<Role> {
    let whole = |key: String| Some(Role::Tensor(key));
    for (hub, torchvision) in [
        ("embeddings.patch_embeddings.projection.", "features.0.0."),
        ("embeddings.norm.", "features.0.2."),
        ("layernorm.", "norm."),
    ] {
        if let Some(rest) = key.strip_prefix(hub) {
            return whole(format!("{torchvision}{rest}"));
        }
    }
    let (stage, rest) = key.strip_prefix("encoder.layers.")?.split_once('.')?;
    let stage: usize = stage.parse().ok().filter(|stage| *stage < 1000)?;
    if let Some(rest) = rest.strip_prefix("downsample.") {
        return whole(format!("features.{}.{rest}", 2 * stage + 2));
    }
    let (block, rest) = rest.strip_prefix("blocks.")?.split_once('.')?;
    let scope = format!("features.{}.{block}", 2 * stage + 1);
    for (index, name) in ["query.", "key.", "value."].iter().enumerate() {
        if let Some(rest) = rest.strip_prefix("attention.self.").and_then(|rest| rest.strip_prefix(name)) {
            return Some(Role::Third(format!("{scope}.attn.qkv.{rest}"), index));
        }
    }
    [
        ("layernorm_before.", "norm1."),
        ("layernorm_after.", "norm2."),
        ("attention.self.", "attn."),
        ("attention.output.dense.", "attn.proj."),
        ("intermediate.dense.", "mlp.0."),
        ("output.dense.", "mlp.3."),
    ]
    .iter()
    .find_map(|(hub, torchvision)| rest.strip_prefix(hub).map(|rest| Role::Tensor(format!("{scope}.{torchvision}{rest}"))))
}

fn bert(key: &str) -> Role {
    let key = key.strip_prefix("bert.").unwrap_or(key);
    if key.starts_with("cls.") || key == "embeddings.position_ids" || key == "embeddings.token_type_ids" {
        return Role::Extra;
    }
    Role::Tensor(match (key.strip_suffix("LayerNorm.gamma"), key.strip_suffix("LayerNorm.beta")) {
        (Some(scope), _) => format!("{scope}LayerNorm.weight"),
        (_, Some(scope)) => format!("{scope}LayerNorm.bias"),
        (None, None) => key.to_string(),
    })
}

fn classifier(key: &str) -> Role {
    let (scope, role) = match (key.strip_prefix("image."), key.strip_prefix("text.")) {
        (Some(rest), _) if rest.starts_with("head.") || rest.ends_with(".relative_position_index") => ("image", Role::Extra),
        (Some(rest), _) => ("image", vgg16(rest)),
        (_, Some(rest)) => ("text", bert(rest)),
        (None, None) => return Role::Tensor(key.to_string()),
    };
    match role {
        Role::Tensor(key) => Role::Tensor(format!("{scope}.{key}")),
        Role::Third(key, index) => Role::Third(format!("{scope}.{key}"), index),
        Role::Extra => Role::Extra,
    }
}

/// How module paths are written in the tensors' keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyStyle {
    /// transformers before 4.52: `model.layers.N`, `visual`.
    Old,
    /// transformers from 4.52: `model.language_model.layers.N`, `model.visual`.
    Later,
}

impl KeyStyle {
    /// The style of a module path; `None` when it is the same in both.
    pub(super) fn of(path: &str) -> Option<KeyStyle> {
        match path {
            _ if hub_key(path) != path => Some(KeyStyle::Later),
            _ if path.starts_with("model.") || path.starts_with("visual.") => Some(KeyStyle::Old),
            _ => None,
        }
    }

    /// The path in this style of a module with the hub's name.
    pub(super) fn path(self, module: &str) -> String {
        match (self, module.strip_prefix("model."), module.starts_with("visual.")) {
            (KeyStyle::Later, Some(rest), _) => format!("model.language_model.{rest}"),
            (KeyStyle::Later, None, true) => format!("model.{module}"),
            _ => module.to_string(),
        }
    }
}
