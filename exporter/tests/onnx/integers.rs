//! The graph by which the appliance asks a processor for products of few bits ([`mmlnb_models::integers`]): the operators with which bundles are
//! written, on weights over the whole range. `UPDATE_SNAPSHOTS=1 cargo test` writes the appliance's file anew.

use mmlnb_exporter::{
    nodes::Elem,
    onnx::{
        AttributeProto, AttributeType, Dimension, GraphProto, IR_VERSION, MICROSOFT, ModelProto, NodeProto, OPSET,
        OperatorSetIdProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    },
};
use mmlnb_models::integers::{BLOCK, INPUTS, OUTPUTS, Product, STEP};
use prost::Message;
use std::path::Path;

#[test]
fn the_appliance_has_the_graph_of_whole_products() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/src/engine/integers.onnx");
    let bytes = model().encode_to_vec();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &bytes).unwrap();
    }
    assert!(std::fs::read(&file).unwrap() == bytes, "{} is not what is written today", file.display());
}

fn model() -> ModelProto {
    let mut initializer = vec![
        tensor("one", Elem::F32, &[], floats(&[1.0])),
        tensor("step", Elem::F32, &[], floats(&[STEP])),
        tensor("middle", Elem::U8, &[], vec![128]),
        tensor("zero", Elem::U8, &[], vec![0]),
        tensor("ones", Elem::F32, &[OUTPUTS], floats(&[1.0; OUTPUTS])),
        tensor("zeros", Elem::I8, &[OUTPUTS], vec![0; OUTPUTS]),
        tensor("ones of blocks", Elem::F32, &[OUTPUTS, INPUTS / BLOCK], floats(&[1.0; OUTPUTS * INPUTS / BLOCK])),
    ];
    initializer.extend(Product::ALL.map(weights));
    let graph = GraphProto {
        name: Some("products of whole numbers".into()),
        node: Product::ALL.map(node).into(),
        initializer,
        input: vec![
            port("codes", Elem::U8, &[INPUTS]),
            port("pixels", Elem::U8, &[INPUTS, 1, 1]),
            port("numbers", Elem::F32, &[INPUTS]),
        ],
        output: Product::ALL.map(result).into(),
    };
    let set = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    ModelProto {
        ir_version: Some(IR_VERSION),
        graph: Some(graph),
        opset_import: vec![set("", OPSET), set(MICROSOFT, 1)],
        ..ModelProto::default()
    }
}

fn weights_name(product: Product) -> String {
    format!("{}, weights", product.name())
}

/// Codes as each operator takes them.
fn weights(product: Product) -> TensorProto {
    let name = weights_name(product);
    let all = |place: usize| product.weight(place / INPUTS, place % INPUTS);
    match product {
        Product::Channels => {
            let turned = (0..INPUTS * OUTPUTS).map(|place| product.weight(place % OUTPUTS, place / OUTPUTS) as u8);
            tensor(&name, Elem::I8, &[INPUTS, OUTPUTS], turned.collect())
        }
        Product::Convolution => {
            tensor(&name, Elem::I8, &[OUTPUTS, INPUTS, 1, 1], (0..INPUTS * OUTPUTS).map(|place| all(place) as u8).collect())
        }
        Product::Blocks(bits) => {
            let per_byte = 8 / bits;
            let code = |place: usize| all(place) - product.range()[0];
            let byte = |first: usize| (0..per_byte).map(|part| code(first * per_byte + part) << (part * bits)).sum::<i32>() as u8;
            let bytes = (0..INPUTS * OUTPUTS / per_byte).map(byte).collect();
            tensor(&name, Elem::U8, &[OUTPUTS, INPUTS / BLOCK, BLOCK * bits / 8], bytes)
        }
    }
}

fn node(product: Product) -> NodeProto {
    let weights = weights_name(product);
    let (operator, domain, inputs) = match product {
        Product::Channels => ("MatMulIntegerToFloat", MICROSOFT, vec!["codes", &weights, "one", "ones", "middle"]),
        Product::Convolution => ("QLinearConv", "", vec!["pixels", "one", "zero", &weights, "ones", "zeros", "step", "zero"]),
        Product::Blocks(_) => ("MatMulNBits", MICROSOFT, vec!["numbers", &weights, "ones of blocks"]),
    };
    let settings: Vec<(&str, usize)> = match product {
        Product::Blocks(bits) => {
            vec![("K", INPUTS), ("N", OUTPUTS), ("bits", bits), ("block_size", BLOCK), ("accuracy_level", 4)]
        }
        Product::Channels | Product::Convolution => Vec::new(),
    };
    let attribute = |(name, value): (&str, usize)| AttributeProto {
        name: Some(name.into()),
        i: Some(value as i64),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    };
    NodeProto {
        input: inputs.into_iter().map(str::to_string).collect(),
        output: vec![product.name().into()],
        name: Some(product.name().into()),
        op_type: Some(operator.into()),
        domain: Some(domain.into()),
        attribute: settings.into_iter().map(attribute).collect(),
    }
}

fn result(product: Product) -> ValueInfoProto {
    match product {
        Product::Convolution => port(product.name(), Elem::U8, &[OUTPUTS, 1, 1]),
        Product::Channels | Product::Blocks(_) => port(product.name(), Elem::F32, &[OUTPUTS]),
    }
}

/// `[rows, sizes..]`.
fn port(name: &str, elem: Elem, sizes: &[usize]) -> ValueInfoProto {
    let rows = Dimension { dim_param: Some("rows".into()), ..Dimension::default() };
    let sizes = sizes.iter().map(|size| Dimension { dim_value: Some(*size as i64), ..Dimension::default() });
    let shape = TensorShapeProto { dim: std::iter::once(rows).chain(sizes).collect() };
    let tensor = TensorTypeProto { elem_type: Some(elem.code()), shape: Some(shape) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

fn tensor(name: &str, elem: Elem, sizes: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(elem.code()),
        dims: sizes.iter().map(|size| *size as i64).collect(),
        raw_data: Some(bytes),
        ..TensorProto::default()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
