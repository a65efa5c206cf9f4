mod order;
mod race;
