//! MMLNB: trainer/nativelink.
