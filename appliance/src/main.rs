//! `mmlnb-appliance`.

fn main() -> std::process::ExitCode {
    mmlnb_appliance::cli::main()
}
