//! The GPUs of this machine, or why there are none. `cargo run --example devices`

use gannet_cuda_runtime::{Driver, Error};

fn main() -> Result<(), Error> {
    let driver = match Driver::load() {
        Ok(driver) => driver,
        Err(why) => {
            println!("no GPU: {why}");
            return Ok(());
        }
    };
    for i in 0..driver.device_count()? {
        let p = driver.device(i)?.properties()?;
        let ((major, minor), mib) = (p.compute_capability, p.total_memory >> 20);
        println!("{i}: {}, sm_{major}{minor}, {mib} MiB", p.name);
    }
    Ok(())
}
