/// stub
pub struct Session { pub client: tokio_postgres::Client }
